package main

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// row is one line of the first table: what one agent sent of one signal, and
// what became of it. All but the names are items.
type row struct {
	agent, signal                         string
	sent, verified, rejected, lost, twice int
}

func (r row) ok() bool {
	return r.sent > 0 && r.verified == r.sent && r.rejected == 0 && r.lost == 0 && r.twice == 0
}

// attackRow is one line of the second table.
type attackRow struct {
	name       string
	want, got  string
	neighbours string
}

const untouched = "untouched"

func (r attackRow) ok() bool { return r.want == r.got && r.neighbours == untouched }

// figures are what stands below the first table.
type figures struct {
	p50, p99       time.Duration // added latency in the agents
	blocksPerGroup float64
	gaps           int
}

func printReport(rows []row, f figures, gone revoked, attacks []attackRow) {
	fmt.Println()
	table([]string{"AGENT", "SIGNAL", "SENT", "VERIFIED", "REJECTED", "LOST", "TWICE"}, 2, func(add func(ok bool, cells ...string)) {
		for _, r := range rows {
			add(r.ok(), r.agent, r.signal, thousands(r.sent), thousands(r.verified), thousands(r.rejected), thousands(r.lost), thousands(r.twice))
		}
	})
	fmt.Printf("latency added p50 %s p99 %s · %.1f blocks per signature · gaps %d\n",
		f.p50.Round(100*time.Microsecond), f.p99.Round(100*time.Microsecond), f.blocksPerGroup, f.gaps)
	fmt.Printf("%s\n\n", gone)
	table([]string{"ATTACK (hostile gateway)", "VERDICT", "NEIGHBOURS"}, 3, func(add func(ok bool, cells ...string)) {
		for _, r := range attacks {
			add(r.ok(), r.name, r.got, r.neighbours)
		}
	})
}

// table prints aligned columns; those from the left-th on are numbers and
// stand right. A line that is not ok is marked.
func table(head []string, left int, fill func(add func(ok bool, cells ...string))) {
	lines, marks := [][]string{head}, []bool{true}
	fill(func(ok bool, cells ...string) {
		lines, marks = append(lines, cells), append(marks, ok)
	})
	width := make([]int, len(head))
	for _, line := range lines {
		for i, cell := range line {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for n, line := range lines {
		var b strings.Builder
		for i, cell := range line {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			switch {
			case i >= left:
				b.WriteString(pad + cell)
			default:
				b.WriteString(cell + pad)
			}
			b.WriteString("  ")
		}
		out := strings.TrimRight(b.String(), " ")
		if !marks[n] {
			out += "   <-- not as it must be"
		}
		fmt.Println(out)
	}
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
