package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/registry/admin"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

const (
	importLong = `Import an inventory: the machines whose TPMs are known by the hash of their
endorsement key. They are genuine and ours from then on, and enrol by
themselves without a token.

FILE is CSV with a header line. Columns: ek_hash (64 hexadecimal digits), name,
and for each label a column label:KEY; an empty cell is no label. The hash of an
EK is printed by 'telemark ek show' on the machine, or taken from its
certificate:

  openssl x509 -in ek.crt -noout -pubkey | openssl pkey -pubin -outform der | sha256sum

The whole file is tried before anything is changed; with errors nothing is.
Machines that are known get the name and labels of the file; revoked ones are
left alone. FILE - is standard input.`

	importExample = `  telemark fleet import inventory.csv --dry-run
  telemark fleet import inventory.csv

  ek_hash,name,label:site,label:rack
  4f1c5d0e…,edge-a,berlin,7`

	importChunk  = 10_000
	maxInventory = 1_000_000
)

func newFleetImport(c *connection) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:     "import FILE",
		Short:   "Import an inventory of machines",
		Long:    importLong,
		Example: importExample,
		Args:    operands(1, "which file? It is CSV with the columns ek_hash, name, label:KEY…"),
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, args []string) error {
			machines, lines, err := readInventory(cmd, args[0])
			if err != nil {
				return err
			}
			return importAll(cmd, registry, machines, lines, dryRun)
		}),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would change")
	return cmd
}

// importAll tries everything first, so that a bad line at the end of a long file
// is found before the beginning of it is changed.
func importAll(cmd *cobra.Command, registry *admin.Client, machines []api.AllowEntry, lines []int, dryRun bool) error {
	total := &api.ImportResult{}
	for _, trial := range []bool{true, false} {
		if !trial && dryRun {
			break
		}
		total = &api.ImportResult{DryRun: trial}
		done := 0
		for chunk := range slices.Chunk(machines, importChunk) {
			r, err := registry.Import(cmd.Context(), &api.ImportRequest{Machines: chunk, DryRun: trial})
			if err != nil {
				return answered(err)
			}
			total.Added, total.Changed, total.Unchanged, total.Revoked = total.Added+r.Added, total.Changed+r.Changed, total.Unchanged+r.Unchanged, total.Revoked+r.Revoked
			for _, e := range r.Errors {
				e.Index += done
				total.Errors = append(total.Errors, e)
			}
			done += len(chunk)
			if len(machines) > importChunk {
				say(cmd.ErrOrStderr(), "%s %d of %d machines", map[bool]string{true: "tried", false: "imported"}[trial], done, len(machines))
			}
		}
		if len(total.Errors) > 0 {
			break
		}
	}
	if err := show(cmd, total, func(w io.Writer) { importTable(w, total, lines) }); err != nil {
		return err
	}
	if len(total.Errors) > 0 {
		return errFound
	}
	return nil
}

func importTable(w io.Writer, r *api.ImportResult, lines []int) {
	if len(r.Errors) > 0 {
		t := newTable(w, "line", "reason", "error")
		for _, e := range r.Errors {
			line := 0
			if e.Index < len(lines) {
				line = lines[e.Index]
			}
			t.AppendRow([]any{line, string(e.Reason), strings.TrimPrefix(e.Error, string(e.Reason)+": ")})
		}
		t.Render()
		say(w, "nothing was changed")
		return
	}
	verb := ""
	if r.DryRun {
		verb = "would be "
	}
	say(w, "%d %sadded, %d %schanged, %d unchanged, %d left alone since they are revoked", r.Added, verb, r.Changed, verb, r.Unchanged, r.Revoked)
}

// readInventory reads the file and says on which line each machine stands.
func readInventory(cmd *cobra.Command, name string) ([]api.AllowEntry, []int, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, nil, work(err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	machines, lines, err := parseInventory(in)
	if err != nil {
		return nil, nil, work(fmt.Errorf("%s: %w", name, err))
	}
	return machines, lines, nil
}

func parseInventory(in io.Reader) ([]api.AllowEntry, []int, error) {
	r := csv.NewReader(in)
	r.TrimLeadingSpace = true
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, nil, errors.New("it is empty: the first line names the columns, ek_hash,name,label:KEY…")
	}
	if err != nil {
		return nil, nil, err
	}
	header[0] = strings.TrimPrefix(header[0], "\ufeff") // as spreadsheets write it
	if err := checkHeader(header); err != nil {
		return nil, nil, err
	}
	var (
		machines []api.AllowEntry
		lines    []int
	)
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		if len(machines) == maxInventory {
			return nil, nil, fmt.Errorf("more than %d machines: split the file", maxInventory)
		}
		line, _ := r.FieldPos(0)
		machines, lines = append(machines, inventoryEntry(header, row)), append(lines, line)
	}
	if len(machines) == 0 {
		return nil, nil, errors.New("there is no machine behind the header line")
	}
	return machines, lines, nil
}

func checkHeader(header []string) error {
	seen := map[string]bool{}
	for _, column := range header {
		known := column == "ek_hash" || column == "name" || (strings.HasPrefix(column, "label:") && column != "label:")
		if !known || seen[column] {
			return fmt.Errorf("column %q is unknown or there twice; the first line names the columns, ek_hash,name,label:KEY…", column)
		}
		seen[column] = true
	}
	if !seen["ek_hash"] || !seen["name"] {
		return errors.New("the first line names the columns, and ek_hash and name have to be among them")
	}
	return nil
}

func inventoryEntry(header, row []string) api.AllowEntry {
	var e api.AllowEntry
	for i, column := range header {
		value := strings.TrimSpace(row[i])
		label, isLabel := strings.CutPrefix(column, "label:")
		switch {
		case column == "ek_hash":
			e.EKHash = strings.ToLower(value)
		case column == "name":
			e.Name = value
		case isLabel && value != "":
			if e.Labels == nil {
				e.Labels = map[string]string{}
			}
			e.Labels[label] = value
		}
	}
	return e
}
