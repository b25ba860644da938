package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/audit"
	"github.com/telemark-otel/telemark/cmd/telemark/internal/otlpfile"
	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/regions"
	"github.com/telemark-otel/telemark/internal/verdict"
)

const (
	inspectLong = `Read OTLP data that carries receipts and show what each receipt claims: the
evidence that a receiving collector archived ('receipts: keep'). FILE is OTLP
JSON (one document, or one per line as the file exporter writes them) or
protobuf (one message, or length-prefixed as the file exporter writes them),
also compressed with zstd or gzip; - is standard input.

With --keys, digest, inclusion proof and signature of every block are verified,
and the policies that the key file itself states. Those of 'telemark fleet keys'
are those of today: --no-policies leaves them out where the archive is older than
they are. Not judged: the nonce's MAC, since only the collector that issued it
can, and replay, but for what is in the files twice. The validity of a key is judged at the nonce's time; a revoked key
is refused whatever the time, one that was superseded is not. Attributes that a
verifier added (telemark.verdict, telemark.name and the like) are taken off
before.

Without --keys, content is still compared with the digest in its receipt, but
anybody could have made that receipt.

The report at the end says, per stream, which blocks are missing between the
first and the last one seen, and, per key, whether the chain of statements
holds. Blocks before the first and after the last cannot be missed by looking
at a file.

Exit code 1 when a block is refused, a chain is broken, a record cannot be
read, or, with --complete, anything is missing or there twice.`

	inspectExample = `  telemark receipt inspect archive/metrics.jsonl
  telemark receipt inspect --keys keys.json --complete archive/*.jsonl
  telemark receipt inspect --summary --keys keys.json archive/metrics.jsonl
  telemark receipt inspect --summary --keys keys.json --regions /etc/telemark/regions archive/*.jsonl
  telemark receipt inspect --summary --keys keys.json --no-policies archive/*.jsonl
  zstdcat old.jsonl.zst | telemark receipt inspect --output json -`
)

type inspectOptions struct {
	keys     string
	regions  string
	signal   string
	summary  bool
	complete bool
	bare     bool // without the policies of the key file
}

// inspection is the whole output.
type inspection struct {
	Verified     bool            `json:"signatures_verified"` // false without keys
	Blocks       []audit.Finding `json:"blocks,omitempty"`
	Verdicts     map[string]int  `json:"verdicts"` // blocks
	Streams      []audit.Stream  `json:"streams"`
	Chains       []audit.Chain   `json:"chains,omitempty"`
	Unreadable   []unreadable    `json:"unreadable,omitempty"`
	NotJudged    []string        `json:"not_judged"`
	options      *inspectOptions `json:"-"`
	completeness *audit.Completeness
	refused      bool // something speaks against a block
	chains       *audit.Chains
}

type unreadable struct {
	File  string `json:"file"`
	Where string `json:"where"`
	Error string `json:"error"`
}

func newReceipt() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "receipt",
		Short:   "Read the receipts of archived telemetry",
		Example: inspectExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newInspect())
	return cmd
}

func newInspect() *cobra.Command {
	var o inspectOptions
	cmd := &cobra.Command{
		Use:     "inspect FILE…",
		Short:   "Show, and with --keys verify, every receipt in OTLP files",
		Long:    inspectLong,
		Example: inspectExample,
		Args:    operands(math.MaxInt, "name at least one file of the archive, or - for standard input"),
		RunE:    func(cmd *cobra.Command, args []string) error { return inspectFiles(cmd, args, &o) },
	}
	cmd.Flags().StringVar(&o.keys, "keys", "", "key file to verify with, as tpmverify reads it (keys::file)")
	cmd.Flags().StringVar(&o.regions, "regions", "", "folder of the areas that its policies name (regions_dir)")
	cmd.Flags().StringVar(&o.signal, "signal", "", "signal of protobuf files: metrics, logs or traces (found out when absent)")
	cmd.Flags().BoolVar(&o.summary, "summary", false, "leave out the blocks that nothing speaks against")
	cmd.Flags().BoolVar(&o.bare, "no-policies", false, "leave out the policies of the key file (location, evidence, bound attributes)")
	cmd.Flags().BoolVar(&o.complete, "complete", false, "exit 1 also when blocks are missing or there twice")
	return cmd
}

func inspectFiles(cmd *cobra.Command, files []string, o *inspectOptions) error {
	auditor, err := newAuditor(o.keys, o.regions, o.bare)
	if err != nil {
		return err
	}
	in := inspection{
		Verified: o.keys != "", Verdicts: map[string]int{}, options: o,
		NotJudged:    []string{"nonce MAC and age", "replay windows"},
		completeness: audit.NewCompleteness(), chains: audit.NewChains(),
	}
	if !in.Verified {
		in.NotJudged = append([]string{"key and signature (no --keys)"}, in.NotJudged...)
	} else if o.bare {
		in.NotJudged = append(in.NotJudged, "policies (--no-policies)")
	}
	bad, err := readBlocks(cmd.InOrStdin(), files, o.signal, auditor, func(f *audit.Finding) {
		in.Verdicts[f.Verdict]++
		in.completeness.Add(f)
		in.chains.Add(f)
		in.refused = in.refused || !f.OK()
		if !o.summary || !f.OK() {
			in.Blocks = append(in.Blocks, *f)
		}
	})
	if err != nil {
		return err
	}
	in.Unreadable, in.Streams, in.Chains = bad, in.completeness.Report(), in.chains.Report()
	if err := show(cmd, &in, in.say); err != nil {
		return err
	}
	if !in.ok() {
		return errFound
	}
	return nil
}

// ok decides the exit code.
func (in *inspection) ok() bool {
	if in.refused {
		return false
	}
	for i := range in.Chains {
		if !in.Chains[i].OK() {
			return false
		}
	}
	if in.options.complete {
		for _, s := range in.Streams {
			if s.Missing() > 0 || s.Duplicates > 0 || s.Partial > 0 {
				return false
			}
		}
	}
	return len(in.Unreadable) == 0
}

func newAuditor(keysFile, regionsDir string, bare bool) (*audit.Auditor, error) {
	if keysFile == "" {
		return audit.New(nil), nil
	}
	content, err := readBounded(keysFile, keyfile.MaxSize)
	if err != nil {
		return nil, work(fmt.Errorf("--keys: %w ('telemark key show --output json' prints one)", err))
	}
	named, err := regions.Load(regionsDir, nil)
	if err != nil {
		return nil, work(fmt.Errorf("--regions: %w", err))
	}
	if bare {
		named = policy.AnyRegions()
	}
	defaults := &policy.Policy{Freshness: policy.Sequence, LiveWithin: policy.DefaultLiveWithin, Regions: named}
	keys, err := keyfile.Parse(keysFile, content, defaults)
	if err != nil {
		return nil, work(fmt.Errorf("%w ('telemark key show --output json' prints one, --regions names the folder of areas)", err))
	}
	if bare {
		return audit.New(bareKeys{keys}), nil
	}
	return audit.New(keys), nil
}

// bareKeys demands nothing of what its keys sign but the proof.
type bareKeys struct{ verdict.KeySource }

func (b bareKeys) Lookup(kid []byte) (*verdict.Key, error) {
	key, err := b.KeySource.Lookup(kid)
	if key == nil || err != nil {
		return nil, err
	}
	bare := *key
	bare.Policy = &policy.Policy{Freshness: policy.Sequence, LiveWithin: policy.DefaultLiveWithin}
	return &bare, nil
}

// blockReader hands every block of OTLP files to visit.
type blockReader struct {
	auditor    *audit.Auditor
	file       string
	visit      func(*audit.Finding)
	unreadable []unreadable
}

func (b *blockReader) Record(r otlpfile.Record) error {
	for i := range r.Len() {
		f := b.auditor.Block(r.At(i))
		f.File, f.Where, f.Index = b.file, r.Where, i
		b.visit(&f)
	}
	return nil
}

func (b *blockReader) Damaged(d otlpfile.Damage) {
	b.unreadable = append(b.unreadable, unreadable{b.file, d.Where, printable(d.Err.Error())})
}

func readBlocks(stdin io.Reader, files []string, signal string, a *audit.Auditor, visit func(*audit.Finding)) ([]unreadable, error) {
	var opts otlpfile.Options
	if signal != "" {
		s, err := block.ParseSignal(signal)
		if err != nil {
			return nil, fmt.Errorf("--signal: %w", err)
		}
		opts.Signal = s
	}
	r := &blockReader{auditor: a, visit: visit}
	for _, file := range files {
		r.file = file
		if err := readFile(stdin, file, opts, r); err != nil {
			return nil, work(fmt.Errorf("%s: %w", file, err))
		}
	}
	return r.unreadable, nil
}

func readFile(stdin io.Reader, file string, opts otlpfile.Options, to otlpfile.Reader) error {
	if file == "-" {
		return otlpfile.Read(stdin, opts, to)
	}
	f, err := os.Open(file)
	if err != nil {
		if pathErr, ok := errors.AsType[*os.PathError](err); ok {
			return pathErr.Err // the caller names the file
		}
		return err
	}
	defer func() { _ = f.Close() }()
	return otlpfile.Read(f, opts, to)
}

func (in *inspection) say(w io.Writer) {
	in.sayBlocks(w)
	for _, u := range in.Unreadable {
		say(w, "%s, %s: cannot be read: %s", u.File, u.Where, u.Error)
	}
	in.sayStreams(w)
	in.sayChains(w)
	say(w, "not judged: %s", strings.Join(in.NotJudged, ", "))
}

func (in *inspection) sayBlocks(w io.Writer) {
	if len(in.Blocks) > 0 {
		t := newTable(w, "WHERE", "SIGNAL", "ITEMS", "VERDICT", "NAME", "KID", "STREAM", "EPOCH", "BLOCK", "SEQ", "LEAF", "NONCE TIME", "LOCATION", "TOLERATES", "DIGEST")
		for i := range in.Blocks {
			t.AppendRow(blockRow(&in.Blocks[i]))
		}
		t.Render()
		say(w, "")
	}
	for i := range in.Blocks {
		if f := &in.Blocks[i]; !f.OK() {
			say(w, "%s: %s: %s%s", place(f), f.Verdict, f.Detail, differs(f.Differs))
		}
	}
	parts := make([]string, 0, len(in.Verdicts))
	for _, v := range sortedKeys(in.Verdicts) {
		parts = append(parts, fmt.Sprintf("%d %s", in.Verdicts[v], v))
	}
	if len(parts) == 0 {
		parts = []string{"none"}
	}
	say(w, "blocks: %s", strings.Join(parts, ", "))
}

func blockRow(f *audit.Finding) []any {
	row := []any{place(f), f.Signal, f.Items, f.Verdict}
	c := f.Claims
	if c == nil {
		return row
	}
	nonce := "none"
	if c.NonceTime != nil {
		nonce = c.NonceTime.Format(time.RFC3339)
	}
	return append(row, orDash(c.Name), short(c.KID), c.Stream, c.Epoch, c.Block, c.Seq, fmt.Sprintf("%d/%d", c.Leaf, c.Size),
		nonce, where(c.Location), orDash(strings.Join(c.Tolerate, ",")), short(c.Digest))
}

func (in *inspection) sayStreams(w io.Writer) {
	if len(in.Streams) == 0 {
		return
	}
	say(w, "")
	t := newTable(w, "NAME", "KID", "EPOCH", "STREAM", "FIRST", "LAST", "BLOCKS", "ITEMS", "MISSING", "GAPS", "TWICE", "PARTIAL")
	for i := range in.Streams {
		s := &in.Streams[i]
		t.AppendRow([]any{orDash(s.Name), short(s.KID), s.Epoch, s.Stream, s.First, s.Last, s.Blocks, s.Items, s.Missing(), spans(s.Gaps), s.Duplicates, s.Partial})
	}
	t.Render()
}

func (in *inspection) sayChains(w io.Writer) {
	if len(in.Chains) > 0 {
		say(w, "")
		t := newTable(w, "NAME", "KID", "EPOCH", "STATEMENTS", "FROM", "TO", "NOT SEEN", "BROKEN AT", "SIGNED TWICE")
		for _, c := range in.Chains {
			t.AppendRow([]any{orDash(c.Name), short(c.KID), c.Epoch, c.Statements, c.First, c.Last, spans(c.Missing), numbers(c.Broken), numbers(c.Equivocal)})
		}
		t.Render()
	}
	say(w, "")
}
