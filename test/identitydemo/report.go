package main

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// fact is a line of the table at the end.
type fact struct {
	what, value, by string
	ok              bool
}

func (d *demo) fact(ok bool, what, value, by string) {
	d.checks++
	if !ok {
		d.wrong++
	}
	d.facts = append(d.facts, fact{what, value, by, ok})
}

// report prints what is known, and by what.
func (d *demo) report() {
	rows := [][3]string{{"VERIFIED FACT", "VALUE", "SHOWN BY"}}
	for _, f := range d.facts {
		rows = append(rows, [3]string{f.what, f.value, f.by})
	}
	var width [3]int
	for _, r := range rows {
		for i, cell := range r {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	fmt.Println()
	for n, r := range rows {
		var line strings.Builder
		for i, cell := range r {
			line.WriteString(cell + strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
		}
		out := strings.TrimRight(line.String(), " ")
		if n > 0 && !d.facts[n-1].ok {
			out += "   <-- not as it must be"
		}
		fmt.Println(out)
	}
}
