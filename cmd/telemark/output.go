package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// format is the value of --output.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
)

func newFormat() *format {
	f := formatTable
	return &f
}

func (f *format) String() string { return string(*f) }
func (*format) Type() string     { return "format" }

func (f *format) Set(s string) error {
	if !slices.Contains([]format{formatTable, formatJSON, formatYAML}, format(s)) {
		return fmt.Errorf("want table, json or yaml")
	}
	*f = format(s)
	return nil
}

// show writes v as JSON or YAML, or lets human write a table.
func show(cmd *cobra.Command, v any, human func(w io.Writer)) error {
	w := cmd.OutOrStdout()
	switch format(cmd.Flag("output").Value.String()) {
	case formatJSON:
		return writeJSON(w, v)
	case formatYAML:
		return writeYAML(w, v)
	default:
		human(w)
		return nil
	}
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return work(enc.Encode(v))
}

// writeYAML goes through JSON, so that both have the same names and order.
func writeYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return work(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return work(err)
	}
	plain(&doc)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return work(err)
	}
	return work(enc.Close())
}

// plain takes the quotes and braces of JSON off a YAML tree.
func plain(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle | yaml.DoubleQuotedStyle
	for _, c := range n.Content {
		plain(c)
	}
}

// newTable returns a table in the style of the command line: a header line,
// columns apart by two spaces, no frame.
func newTable(w io.Writer, header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	style := table.StyleLight
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft = ""
	style.Box.PaddingRight = "  "
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	if len(header) > 0 {
		t.AppendHeader(header)
	}
	return t
}

// say writes lines for people; what cannot be written to a closed pipe is lost.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
