package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/registry/admin"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/audit"
	"github.com/telemark-otel/telemark/internal/strictjson"
)

const (
	auditLong = `Read and verify the registry's audit log: who enrolled, approved, revoked and
changed what. Entries are chained by SHA-256, and the end of the chain is signed
by the registry.`

	verifyLong = `Verify the audit log: that every entry follows the one before, and that the
signed end is the end. --pin is the registry's public key, as 'registryd key show'
prints it.

Without FILE the log is read from the registry. With FILE it is read from what
'telemark audit export' wrote.

--remember FILE keeps the end that was verified. The next time the log has to
contain it: a registry that cut its log, or wrote it anew from some point and
signed it again, shows. Keep that file away from the registry's machine.`

	verifyExample = `  telemark audit verify --registry https://registry.example:3000 --pin registry.pub --remember head.json
  telemark audit export > audit.jsonl
  telemark audit verify audit.jsonl --pin registry.pub`

	auditPage    = 1000
	maxAuditLine = 1 << 20
	maxPin       = 64 << 10
)

func newAudit() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "Read and verify the registry's audit log",
		Long:    auditLong,
		Example: verifyExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.flags(cmd)
	cmd.AddCommand(newAuditList(&c), newAuditExport(&c), newAuditVerify(&c))
	return cmd
}

func newAuditList(c *connection) *cobra.Command {
	var last uint64
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the last entries",
		Example: "  telemark audit list --last 50",
		Args:    cobra.NoArgs,
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, _ []string) error {
			head, err := readHead(cmd.Context(), registry, nil)
			if err != nil {
				return err
			}
			entries := []audit.Entry{}
			after := head.Seq - min(head.Seq, last)
			err = eachEntry(cmd.Context(), registry, after, head.Seq, func(e *audit.Entry) error {
				entries = append(entries, *e)
				return nil
			})
			if err != nil {
				return err
			}
			return show(cmd, entries, func(w io.Writer) {
				t := newTable(w, "number", "at", "who", "what", "about", "detail")
				for i := range entries {
					e := &entries[i]
					t.AppendRow([]any{e.Seq, when(e.At), e.Actor, e.Action, dash(e.Subject), string(e.Detail)})
				}
				t.Render()
			})
		}),
	}
	cmd.Flags().Uint64Var(&last, "last", 20, "how many")
	return cmd
}

// exported is one line of an export: an entry, or the signed end as the last.
type exported struct {
	Entry *audit.Entry `json:"entry,omitempty"`
	Head  []byte       `json:"head,omitempty"`
}

func newAuditExport(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:     "export",
		Short:   "Write the whole log with its signed end, as JSON lines",
		Example: "  telemark audit export > audit.jsonl",
		Args:    cobra.NoArgs,
		RunE: withRegistry(c, func(cmd *cobra.Command, registry *admin.Client, _ []string) error {
			_, signed, err := freshHead(cmd.Context(), registry)
			if err != nil {
				return err
			}
			head, err := answer.PeekAuditHead(signed)
			if err != nil {
				return err
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			enc := json.NewEncoder(out)
			err = eachEntry(cmd.Context(), registry, 0, head.Seq, func(e *audit.Entry) error { return enc.Encode(exported{Entry: e}) })
			if err != nil {
				return err
			}
			return work(errors.Join(enc.Encode(exported{Head: signed}), out.Flush()))
		}),
	}
}

type verifyOptions struct {
	pin, remember string
}

// verified is the outcome of audit verify.
type verified struct {
	Entries uint64    `json:"entries"`
	Hash    string    `json:"hash"`
	Signed  time.Time `json:"signed_at"`
	Since   uint64    `json:"contains_remembered,omitempty"`
}

func newAuditVerify(c *connection) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:     "verify [FILE] --pin REGISTRY.PUB",
		Short:   "Verify the audit log",
		Long:    verifyLong,
		Example: verifyExample,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := verifyAudit(cmd, c, &o, args)
			if err != nil {
				return err
			}
			return show(cmd, out, func(w io.Writer) {
				say(w, "%d entries, unbroken; the end was signed at %s", out.Entries, when(out.Signed))
				if out.Since > 0 {
					say(w, "the end remembered from before, entry %d, is in it", out.Since)
				}
			})
		},
	}
	cmd.Flags().StringVar(&o.pin, "pin", "", "file with the registry's public key")
	cmd.Flags().StringVar(&o.remember, "remember", "", "file that keeps the end that was verified")
	return cmd
}

// remembered is the content of the file of --remember.
type remembered struct {
	Seq  uint64 `json:"seq"`
	Hash []byte `json:"hash"`
}

func verifyAudit(cmd *cobra.Command, c *connection, o *verifyOptions, args []string) (*verified, error) {
	verifier, err := readPin(o.pin)
	if err != nil {
		return nil, err
	}
	before, err := readRemembered(o.remember)
	if err != nil {
		return nil, err
	}
	check := &logCheck{}
	if err := check.chain.Expect(before.Seq, before.Hash); err != nil {
		return nil, work(err)
	}
	head, err := check.source(cmd, c, verifier, args)
	if err != nil {
		return nil, err
	}
	if err := check.end(head); err != nil {
		return nil, err
	}
	if o.remember != "" {
		if err := writeRemembered(o.remember, remembered{Seq: head.Seq, Hash: head.Hash}); err != nil {
			return nil, err
		}
	}
	return &verified{Entries: head.Seq, Hash: hex.EncodeToString(head.Hash), Signed: head.IssuedAt, Since: before.Seq}, nil
}

// logCheck follows the chain. Ends that were remembered or signed are expected
// in it.
type logCheck struct {
	chain audit.Chain
}

func (l *logCheck) append(e *audit.Entry) error { return changed(l.chain.Append(e)) }

// changed says of an error of the chain that it is about the log.
func changed(err error) error {
	if err == nil {
		return nil
	}
	return refuse("%v", err)
}

// end holds the signed end against what was read.
func (l *logCheck) end(head *answer.AuditHead) error {
	seq, hash := l.chain.Last()
	if seq > head.Seq || (seq == head.Seq && seq > 0 && !bytes.Equal(hash, head.Hash)) {
		return refuse("the registry signed another log: %d entries, and this one has %d", head.Seq, seq)
	}
	return changed(errors.Join(l.chain.Expect(head.Seq, head.Hash), l.chain.End()))
}

// source reads the log from a file or the registry, and returns its verified
// end.
func (l *logCheck) source(cmd *cobra.Command, c *connection, v *answer.Verifier, args []string) (*answer.AuditHead, error) {
	if len(args) == 1 {
		return l.fromFile(args[0], v)
	}
	registry, err := c.client()
	if err != nil {
		return nil, err
	}
	head, err := readHead(cmd.Context(), registry, v)
	if err != nil {
		return nil, err
	}
	return head, eachEntry(cmd.Context(), registry, 0, head.Seq, l.append)
}

func (l *logCheck) fromFile(name string, v *answer.Verifier) (*answer.AuditHead, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, work(err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxAuditLine)
	var head *answer.AuditHead
	for n := 1; lines.Scan(); n++ {
		var line exported
		if err := strictjson.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, work(fmt.Errorf("%s, line %d: %w", name, n, err))
		}
		switch {
		case head != nil:
			return nil, refuse("%s, line %d: there is something behind the signed end", name, n)
		case line.Entry != nil:
			if err := l.append(line.Entry); err != nil {
				return nil, err
			}
		default:
			head = &answer.AuditHead{}
			if err := v.Open(answer.KindAuditHead, line.Head, head); err != nil {
				return nil, refuse("%s, line %d: %v", name, n, err)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, work(fmt.Errorf("%s: %w", name, err))
	}
	if head == nil {
		return nil, refuse("%s has no signed end: the export was cut", name)
	}
	return head, nil
}

// readHead asks for the end under a fresh nonce. Without a verifier the
// registry's word is taken, for lists.
func readHead(ctx context.Context, registry *admin.Client, v *answer.Verifier) (*answer.AuditHead, error) {
	nonce, signed, err := freshHead(ctx, registry)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return answer.PeekAuditHead(signed)
	}
	var head answer.AuditHead
	if err := v.Open(answer.KindAuditHead, signed, &head); err != nil {
		return nil, refuse("the end of the log: %v", err)
	}
	if !bytes.Equal(head.Nonce, nonce) {
		return nil, refuse("the end of the log was signed for another request: it is an old one")
	}
	return &head, nil
}

func freshHead(ctx context.Context, registry *admin.Client) (nonce, signed []byte, err error) {
	nonce = make([]byte, 32)
	_, _ = rand.Read(nonce) // never fails
	signed, err = registry.AuditHead(ctx, nonce)
	return nonce, signed, answered(err)
}

// eachEntry reads the entries behind after, up to last.
func eachEntry(ctx context.Context, registry *admin.Client, after, last uint64, fn func(*audit.Entry) error) error {
	for after < last {
		entries, err := registry.AuditEntries(ctx, after, auditPage)
		if err != nil {
			return answered(err)
		}
		if len(entries) == 0 {
			return refuse("the log ends with entry %d, and the registry signed %d entries: the log was cut", after, last)
		}
		for i := range entries {
			if entries[i].Seq > last {
				return nil // appended in the meantime
			}
			if err := fn(&entries[i]); err != nil {
				return err
			}
			after = entries[i].Seq
		}
	}
	return nil
}

func readRemembered(name string) (remembered, error) {
	var r remembered
	if name == "" {
		return r, nil
	}
	content, err := readBounded(name, maxPin)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = strictjson.Unmarshal(content, &r)
	}
	if err != nil {
		return r, work(fmt.Errorf("--remember: %w", err))
	}
	return r, nil
}

// writeRemembered replaces the file as a whole.
func writeRemembered(name string, r remembered) error {
	content, err := json.Marshal(r)
	if err != nil {
		return work(err)
	}
	temporary := name + ".new"
	if err := os.WriteFile(temporary, append(content, '\n'), 0o600); err != nil {
		return work(fmt.Errorf("--remember: %w", err))
	}
	return work(os.Rename(temporary, name))
}
