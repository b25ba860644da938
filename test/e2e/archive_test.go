package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

// sighting is one block, or fragment of a block, in an archive.
type sighting struct {
	id      string // kid/epoch/stream/number
	name    string // of the machine
	service string
	epoch   uint64
	request int
	marked  bool // as a redelivery
	items   int
	ids     []int64
}

// sightings is the archive of one signal.
type sightings struct {
	blocks []sighting
	byItem map[int64][]int // indices into blocks
}

// archive reads what a collector archived of a signal. Everything in it must
// carry the verdict "verified" and a receipt.
func (f *fleet) archive(c *harness.Node, signal block.Signal) *sightings {
	f.Helper()
	s := &sightings{byItem: map[int64][]int{}}
	err := harness.EachArchived(archiveOf(c, signal), signal, func(b *harness.ArchivedBlock) error {
		if b.Verdict != reason.Verified || b.Receipt == nil {
			return fmt.Errorf("request %d holds a block of %q with verdict %q (receipt: %t)", b.Request, b.Name, b.Verdict, b.Receipt != nil)
		}
		for _, id := range b.IDs {
			s.byItem[id] = append(s.byItem[id], len(s.blocks))
		}
		s.blocks = append(s.blocks, sighting{
			id: b.ID(), name: b.Name, service: harness.ServiceOf(b.Block), epoch: b.Receipt.Statement.Epoch,
			request: b.Request, marked: b.Marked, items: b.Items, ids: b.IDs,
		})
		return nil
	})
	require.NoError(f, err)
	return s
}

func archiveOf(c *harness.Node, signal block.Signal) string {
	return map[block.Signal]string{block.Metrics: c.Metrics, block.Logs: c.Logs, block.Traces: c.Traces}[signal]
}

// span is the items that a client sent: numbers first to first+n-1.
type span struct {
	first int64
	n     int
}

// missing says which of the items of sent are not there, nil when none is.
func (s *sightings) missing(sent ...span) error {
	var lost []int64
	for _, sp := range sent {
		for id := sp.first; id < sp.first+int64(sp.n); id++ {
			if len(s.byItem[id]) == 0 {
				lost = append(lost, id)
			}
		}
	}
	if len(lost) > 0 {
		return fmt.Errorf("%d items are not in the archive, such as %v", len(lost), lost[:min(len(lost), 10)])
	}
	return nil
}

// exactly says in which way the archive holds anything else than each item of
// sent once, nil when in none.
func (s *sightings) exactly(sent ...span) error {
	if err := s.missing(sent...); err != nil {
		return err
	}
	total := 0
	for _, sp := range sent {
		total += sp.n
	}
	for id, where := range s.byItem {
		if len(where) != 1 {
			return fmt.Errorf("item %d is in the archive %d times", id, len(where))
		}
	}
	if len(s.byItem) != total {
		return fmt.Errorf("%d items are in the archive, %d were sent", len(s.byItem), total)
	}
	return nil
}

func (s *sightings) String() string {
	marked, twice := 0, 0
	for _, b := range s.blocks {
		if b.marked {
			marked++
		}
	}
	for _, where := range s.byItem {
		if len(where) > 1 {
			twice++
		}
	}
	return fmt.Sprintf("%d items in %d blocks, %d items more than once, %d blocks marked as redeliveries", len(s.byItem), len(s.blocks), twice, marked)
}

// only returns what is of one machine.
func (s *sightings) only(name string) *sightings {
	out := &sightings{byItem: map[int64][]int{}}
	for _, b := range s.blocks {
		if b.name != name {
			continue
		}
		for _, id := range b.ids {
			out.byItem[id] = append(out.byItem[id], len(out.blocks))
		}
		out.blocks = append(out.blocks, b)
	}
	return out
}

// service returns how often blocks of a service are in the archive.
func (s *sightings) service(name string) (n int) {
	for i := range s.blocks {
		if s.blocks[i].service == name {
			n++
		}
	}
	return n
}

// merged says whether some request held blocks of all the machines named.
func (s *sightings) merged(names ...string) bool {
	seen := map[int][]string{}
	for _, b := range s.blocks {
		seen[b.request] = append(seen[b.request], b.name)
	}
	for _, in := range seen {
		if !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(in, name) }) {
			return true
		}
	}
	return false
}

// awaitArchive waits until the archive of a signal holds all items of sent,
// and returns it.
func (f *fleet) awaitArchive(c *harness.Node, signal block.Signal, limit time.Duration, sent ...span) *sightings {
	f.Helper()
	total := 0
	for _, sp := range sent {
		total += sp.n
	}
	var s *sightings
	grown := -1
	f.eventually(limit, func() error {
		// Reading an archive is slow, so it is not read while it cannot be complete.
		samples, err := c.Scrape(f.Context())
		if err != nil {
			return err
		}
		verified := int(samples.Sum(verifiedItems, "signal", signal.String()))
		if verified == grown && s != nil {
			return s.missing(sent...)
		}
		if verified < total {
			return fmt.Errorf("%s: %d items of %d are verified", signal, verified, total)
		}
		grown = verified
		s = f.archive(c, signal)
		return s.missing(sent...)
	})
	return s
}

// inspection is what 'telemark receipt inspect' says of an archive.
type inspection struct {
	Verified bool           `json:"signatures_verified"`
	Verdicts map[string]int `json:"verdicts"`
	Streams  []struct {
		Name       string     `json:"name"`
		Stream     string     `json:"stream"`
		First      int        `json:"first_block"`
		Last       int        `json:"last_block"`
		Blocks     int        `json:"blocks"`
		Items      int        `json:"items"`
		Gaps       []struct{} `json:"gaps"`
		Duplicates int        `json:"duplicates"`
		Partial    int        `json:"partial_blocks"`
	} `json:"streams"`
	Unreadable []struct{ Where, Error string } `json:"unreadable"`
}

// inspect verifies every receipt of an archive again, without the collector.
func (f *fleet) inspect(c *harness.Node, signal block.Signal, flags ...string) inspection {
	f.Helper()
	in, err := f.tryInspect(c, signal, flags...)
	require.NoError(f, err)
	require.Empty(f, in.Unreadable)
	return in
}

// inspectDamaged does the same for an archive whose writer was killed.
func (f *fleet) inspectDamaged(c *harness.Node, signal block.Signal) inspection {
	f.Helper()
	in, err := f.tryInspect(c, signal)
	if len(in.Unreadable) == 0 {
		require.NoError(f, err)
	}
	return in
}

// tryInspect returns what was found also when the command says that all is not well.
func (f *fleet) tryInspect(c *harness.Node, signal block.Signal, flags ...string) (in inspection, err error) {
	f.Helper()
	path := archiveOf(c, signal)
	files, err := filepath.Glob(path[:len(path)-len(".jsonl")] + "*.jsonl")
	require.NoError(f, err)
	args := append([]string{"receipt", "inspect", "--summary", "--output", "json", "--keys", f.keys}, flags...)
	out, err := f.command(append(args, files...)...)
	if jsonErr := json.Unmarshal(out, &in); jsonErr != nil {
		return in, errors.Join(err, jsonErr)
	}
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	require.True(f, in.Verified)
	return in, err
}
