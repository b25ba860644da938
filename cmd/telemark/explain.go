package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/audit"
	"github.com/telemark-otel/telemark/internal/reason"
)

const (
	explainLong = `Say why blocks were refused, what that means and what to check next.

FILE is what a quarantine pipeline wrote (tpmverify with 'mode: observe' tags
each block with telemark.verdict; with 'receipts: keep' it can be looked at
again), or any OTLP data with receipts: JSON or protobuf, - for standard input.
The recorded verdict is shown beside what the block itself says now; with
--keys, signatures are judged too.

A REASON is the word that stands in verdicts, logs and metrics.

Exit code 1 when the file holds refused blocks.`

	explainExample = `  telemark explain /var/lib/telemark/quarantine/refused.jsonl
  telemark explain --keys keys.json quarantine.jsonl
  telemark explain digest_mismatch
  telemark explain --list`
)

// noReason holds the words that stand beside reasons and are none.
var noReason = map[string]string{
	reason.Verified: "the block passed every check",
	"gap": "nothing arrived that could be refused. GET /metrics/status on the collector's admin listener (localhost:8445) says which " +
		"stream misses how many blocks, 'telemark receipt inspect --summary FILE…' which numbers the archive lacks. Then look along the " +
		"way for what drops: filters, queues in memory, exporters that gave up ('telemark config lint')",
}

// ofKeys are the reasons that stand or fall with what is known of the key.
var ofKeys = map[reason.Reason]bool{
	reason.UnknownKey: true, reason.KeyUnavailable: true, reason.KeyPending: true, reason.KeyRevoked: true, reason.KeyExpired: true,
	reason.AlgorithmMismatch: true, reason.CurveMismatch: true,
}

// page is what there is to say of a reason.
type page struct {
	Reason string   `json:"reason"`
	Class  string   `json:"class"`
	Means  string   `json:"means"`
	Sender string   `json:"sender"`
	Check  []string `json:"check"`
}

// refused are the blocks of a file that were refused for one reason.
type refused struct {
	page
	Blocks   int             `json:"blocks"`
	Examples []audit.Finding `json:"examples"` // at most maxExamples
}

// maxExamples bounds the blocks that are shown for one reason.
const maxExamples = 5

func newExplain() *cobra.Command {
	var keys, areas, signal string
	var listAll bool
	cmd := &cobra.Command{
		Use:     "explain FILE|REASON",
		Short:   "Say why a block was refused, and what to check",
		Long:    explainLong,
		Example: explainExample,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case listAll && len(args) == 0:
				return showReasons(cmd)
			case len(args) != 1 || listAll:
				return fmt.Errorf("name one file or one reason, or --list")
			}
			if r, err := reason.Parse(args[0]); err == nil {
				p := pageOf(r)
				return show(cmd, p, func(w io.Writer) { p.say(w) })
			}
			if what := noReason[args[0]]; what != "" {
				return fmt.Errorf("%q is not a reason for refusal: %s", args[0], what)
			}
			if _, err := os.Stat(args[0]); err != nil && args[0] != "-" {
				return fmt.Errorf("%q is neither a file nor a reason; 'telemark explain --list' shows the reasons", args[0])
			}
			return explainFile(cmd, args[0], keys, areas, signal)
		},
	}
	cmd.Flags().StringVar(&keys, "keys", "", "key file, to judge signatures too")
	cmd.Flags().StringVar(&areas, "regions", "", "folder of the areas that its policies name (regions_dir)")
	cmd.Flags().StringVar(&signal, "signal", "", "signal of protobuf files (found out when absent)")
	cmd.Flags().BoolVar(&listAll, "list", false, "list the reasons instead")
	return cmd
}

func showReasons(cmd *cobra.Command) error {
	var pages []page
	for _, r := range reason.All() {
		pages = append(pages, pageOf(r))
	}
	return show(cmd, pages, func(w io.Writer) {
		t := newTable(w, "REASON", "CLASS", "MEANS")
		for _, p := range pages {
			t.AppendRow([]any{p.Reason, p.Class, text.WrapSoft(p.Means, wrapAt)})
		}
		t.Render()
	})
}

func explainFile(cmd *cobra.Command, file, keys, areas, signal string) error {
	auditor, err := newAuditor(keys, areas, false)
	if err != nil {
		return err
	}
	byReason := map[reason.Reason]*refused{}
	fine := 0
	bad, err := readBlocks(cmd.InOrStdin(), []string{file}, signal, auditor, func(f *audit.Finding) {
		r := why(f)
		if r == "" {
			fine++
			return
		}
		e := byReason[r]
		if e == nil {
			e = &refused{page: pageOf(r)}
			byReason[r] = e
		}
		e.Blocks++
		if len(e.Examples) < maxExamples {
			e.Examples = append(e.Examples, *f)
		}
	})
	if err != nil {
		return err
	}
	out := []refused{}
	for _, r := range reason.All() {
		if e := byReason[r]; e != nil {
			out = append(out, *e)
		}
	}
	err = show(cmd, out, func(w io.Writer) {
		sayRefused(w, out)
		for _, u := range bad {
			say(w, "%s, %s: cannot be read: %s", u.File, u.Where, u.Error)
		}
		sayRest(w, len(out), fine, keys != "")
	})
	if err == nil && len(out)+len(bad) > 0 {
		err = errFound
	}
	return err
}

// sayRest counts the blocks that are not explained.
func sayRest(w io.Writer, reasons, fine int, keys bool) {
	other, judged := "", ""
	if reasons > 0 && fine == 0 {
		return
	}
	if reasons > 0 {
		other = "other "
	}
	if !keys && fine > 0 {
		judged = " (signatures are not judged without --keys)"
	}
	say(w, "%s against which nothing speaks%s", count(fine, other+"block"), judged)
}

// why returns the reason to explain: the one recorded when the block arrived,
// since nonce, policy and replay cannot be judged again, else the one found
// now.
func why(f *audit.Finding) reason.Reason {
	if r, err := reason.Parse(f.Archived); err == nil {
		return r
	}
	if r, err := reason.Parse(f.Verdict); err == nil {
		return r
	}
	return ""
}

func sayRefused(w io.Writer, all []refused) {
	for i := range all {
		e := &all[i]
		say(w, "%d × %s", e.Blocks, e.Reason)
		e.sayBody(w)
		for j := range e.Examples {
			sayExample(w, &e.Examples[j], e.Reason)
		}
		if more := e.Blocks - len(e.Examples); more > 0 {
			say(w, "    and %d more", more)
		}
		say(w, "")
	}
}

func sayExample(w io.Writer, f *audit.Finding, why string) {
	say(w, "  %s: %s, %s", place(f), f.Signal, count(f.Items, "item"))
	if c := f.Claims; c != nil {
		say(w, "    from     %s, stream %s, epoch %d, block %d", strings.TrimSpace("kid "+short(c.KID)+" "+c.Name), c.Stream, c.Epoch, c.Block)
	}
	now := f.Verdict
	switch {
	case f.Detail != "":
		now += ": " + f.Detail
	case f.Verdict == audit.Unverified:
		now = "the content fits its receipt; the signature needs --keys"
	case f.OK() && why == string(reason.ReservedAttribute):
		now = "content, proof and signature hold: what it carried under telemark.* was taken off before it was kept"
	case f.OK() && ofKeys[reason.Reason(why)]:
		now = "content, proof and signature hold, and --keys trusts the key: what the collector knew of keys was different then"
	case f.OK():
		now = "content, proof and signature hold: it was refused for what only the collector knew (nonce, policy or replay)"
	}
	sayIndented(w, "now      ", now+differs(f.Differs))
	if c := f.Claims; c != nil && len(c.Added) > 0 {
		say(w, "    added    %s", list(c.Added))
	}
}

func (p *page) say(w io.Writer) {
	say(w, "%s", p.Reason)
	p.sayBody(w)
}

func (p *page) sayBody(w io.Writer) {
	sayIndented(w, "means    ", p.Means)
	sayIndented(w, "class    ", p.Class+": "+p.Sender)
	for i, c := range p.Check {
		label := "check    "
		if i > 0 {
			label = strings.Repeat(" ", len(label))
		}
		sayIndented(w, label, "- "+c)
	}
}

func pageOf(r reason.Reason) page {
	class, sender := classOf(r.Class())
	return page{Reason: string(r), Class: class, Means: r.Help(), Sender: sender, Check: nextSteps[r]}
}

// classOf names a class, and says what a sender can expect.
func classOf(c reason.Class) (name, sender string) {
	switch c {
	case reason.ClassForged:
		return "forged", "sending it again does not help"
	case reason.ClassStale:
		return "stale", "it was right once; sending it again does not help"
	case reason.ClassReplayed:
		return "replayed", "the sender was answered with success and sends it no more"
	case reason.ClassPolicy:
		return "policy", "the block is authentic, and policy does not allow it"
	case reason.ClassTransient:
		return "transient", "nothing is wrong with the block; it is sent or tried again"
	case reason.ClassUnknown:
		return "unknown", "not a reason of this version"
	default:
		return "unknown", "not a reason of this version"
	}
}
