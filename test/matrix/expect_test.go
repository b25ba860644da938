package matrix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

func (s scene) service(name string) (*service, error) {
	sent := s.services[name]
	if sent == nil {
		return nil, fmt.Errorf("nothing was sent as %q", name)
	}
	return sent, nil
}

// found is what an archive holds of a service.
type found struct {
	items   map[int64]int // how often each number is there
	points  int           // without heartbeats
	strange []string      // blocks of another machine, or with another verdict
}

// find reads the archive of the collector.
func (w *world) find(name string, sent *service) (f found, err error) {
	f.items = map[int64]int{}
	path := filepath.Join(w.nodes[string(collector)].dir, sent.signal.String()+".jsonl")
	err = harness.EachArchived(path, sent.signal, func(b *harness.ArchivedBlock) error {
		if sent.payload != "" && !carries(b, sent.payload) || sent.payload == "" && harness.ServiceOf(b.Block) != name {
			return nil
		}
		if b.Verdict != reason.Verified || b.Name != sent.machine || b.Receipt == nil {
			f.strange = append(f.strange, fmt.Sprintf("%s of %q (receipt: %t)", b.Verdict, b.Name, b.Receipt != nil))
		}
		f.points += b.Items
		for _, id := range b.IDs {
			f.items[id]++
		}
		return nil
	})
	return f, err
}

func carries(b *harness.ArchivedBlock, payload string) bool {
	for _, sm := range b.Block.Metrics().ScopeMetrics().All() {
		if v, ok := sm.Scope().Attributes().Get("ondemand.payload_id"); ok && v.Str() == payload {
			return true
		}
	}
	return false
}

// whole says what is wrong with what was found of a service, nil when it is
// there once, as the machine signed it.
func (f *found) whole(name string, sent *service) error {
	if len(f.strange) > 0 {
		return fmt.Errorf("%s is in the archive as %v", name, f.strange)
	}
	if f.points != sent.n {
		return fmt.Errorf("%d items of %s are in the archive, %d were sent", f.points, name, sent.n)
	}
	for id := sent.first; sent.payload == "" && id < sent.first+int64(sent.n); id++ {
		if f.items[id] != 1 {
			return fmt.Errorf("item %d of %s is in the archive %d times", id, name, f.items[id])
		}
	}
	return nil
}

// arrived is "arrived SERVICE…": all of it is in the archive, each item once, verified
// as the machine's that it was sent to.
func (s scene) arrived(name string) error {
	sent, err := s.service(name)
	if err != nil {
		return err
	}
	return eventually(func() error {
		f, err := s.find(name, sent)
		if err != nil {
			return err
		}
		return f.whole(name, sent)
	})
}

// absent is "absent SERVICE…": nothing of it is in the archive. It does not wait:
// 'refused' or 'counter' before it does.
func (s scene) absent(name string) error {
	sent, err := s.service(name)
	if err != nil {
		return err
	}
	f, err := s.find(name, sent)
	if err == nil && (f.points > 0 || len(f.strange) > 0) {
		err = fmt.Errorf("%d items of %s are in the archive", f.points, name)
	}
	return err
}

// stream is a line of the status page.
type stream struct {
	KID          string         `json:"kid"`
	Stream       string         `json:"stream"`
	Verified     int            `json:"verified"`
	Refused      map[string]int `json:"refused"`
	GapsOpen     int            `json:"gaps_open"`
	GapsReported int            `json:"gaps_reported"`
	GapsClosed   int            `json:"gaps_closed"`
	LateFills    int            `json:"late_fills"`
	ItemsMissing int            `json:"items_missing"`
	LastBlock    int            `json:"last_block"`
	InFlight     int            `json:"in_flight"`
}

func (s scene) status(query string) ([]stream, error) {
	resp, body, err := s.request("collector.admin", http.MethodGet, "/metrics/status"+query, "", nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the status page answers %s", resp.Status)
	}
	var page struct{ Streams []stream }
	err = json.Unmarshal(body, &page)
	return page.Streams, err
}

// untouched is "untouched MACHINE…": of these nothing was refused and nothing is
// missing, and all that was ever sent to them has arrived once.
func (s scene) untouched(name string) error {
	n, err := s.node(name)
	if err != nil {
		return err
	}
	for service, sent := range s.services {
		if sent.machine == name {
			if err := s.arrived(service); err != nil {
				return err
			}
		}
	}
	return eventually(func() error {
		lines, err := s.status("?kid=" + n.kid)
		if err != nil {
			return err
		}
		if len(lines) == 0 {
			return fmt.Errorf("the status page knows nothing of %s", name)
		}
		for _, line := range lines {
			gaps := line.GapsOpen + line.GapsReported + line.GapsClosed + line.LateFills + line.ItemsMissing
			if gaps != 0 || len(line.Refused) != 0 || line.Verified != line.LastBlock {
				return fmt.Errorf("of %s something was touched: %+v", name, line)
			}
		}
		return nil
	})
}

// counter is "counter NODE NAME [label=value…] N" or ">=N": one of a node's own
// metrics comes to N. It must not go beyond it.
func counter(s scene, args []string) error {
	n, err := s.node(args[0])
	if err != nil {
		return err
	}
	last := args[len(args)-1]
	number, atLeast := strings.CutPrefix(last, ">=")
	want, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("%q is no number", last)
	}
	var labels []string
	for _, pair := range args[2 : len(args)-1] {
		name, value, _ := strings.Cut(pair, "=")
		labels = append(labels, name, value)
	}
	return eventually(func() error {
		samples, err := harness.Scrape(context.Background(), n.metrics)
		if err != nil {
			return err
		}
		if got := int(samples.Sum(args[1], labels...)); got != want && (!atLeast || got < want) {
			return fmt.Errorf("%s %v of %s is %d, want %s", args[1], labels, n.Name, got, last)
		}
		return nil
	})
}

const refusedBlocks = "otelcol_tpmverify_refused_blocks"

// refused is "refused REASON N": since the collector's start it has refused N
// blocks for that reason, and none for a reason that the script has not named.
func refused(s scene, args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if !slices.Contains(reason.All(), reason.Reason(args[0])) {
		return fmt.Errorf("there is no reason %q", args[0])
	}
	s.expected[args[0]] = n
	return eventually(func() error {
		samples, err := harness.Scrape(context.Background(), s.nodes[string(collector)].metrics)
		if err != nil {
			return err
		}
		var errs []error
		for _, r := range reason.All() {
			if got, want := int(samples.Sum(refusedBlocks, "reason", string(r))), s.expected[string(r)]; got != want {
				errs = append(errs, fmt.Errorf("%d blocks were refused as %s, want %d", got, r, want))
			}
		}
		return errors.Join(errs...)
	})
}

// answered is "answered CODE…": these are the gRPC codes, and no others, that the
// collector has answered gateways with since the last time. CODE? is one that may be
// among them.
func answered(s scene, args []string) error {
	var got []string
	err := eventually(func() (err error) {
		got, err = s.way.answered()
		return err
	})
	if err != nil {
		return err
	}
	for _, want := range args {
		code, maybe := strings.CutSuffix(want, "?")
		at := slices.Index(got, code)
		if at < 0 && !maybe {
			return fmt.Errorf("the collector has never answered %s", code)
		}
		if at >= 0 {
			got = slices.Delete(got, at, at+1)
		}
	}
	if len(got) > 0 {
		return fmt.Errorf("the collector has also answered %v", got)
	}
	return nil
}

// settled is "settled": nothing is under way to the collector, nor in it. What it had when it
// dies may come a second time, marked as a redelivery; what it had confirmed may not.
func settled(s scene, _ []string) error {
	return eventually(func() error {
		if n := s.way.underWay(); n > 0 {
			return fmt.Errorf("%d requests to the collector are without an answer", n)
		}
		lines, err := s.status("")
		if err != nil {
			return err
		}
		for _, line := range lines {
			if line.InFlight > 0 {
				return fmt.Errorf("%d blocks of %s are in flight", line.InFlight, line.KID)
			}
		}
		return nil
	})
}

// inspect is "inspect SIGNAL": the command line verifies the archive again, from
// its receipts.
func inspect(s scene, args []string) error {
	for _, signal := range []block.Signal{block.Metrics, block.Logs, block.Traces} {
		if slices.Contains(args, signal.String()) {
			file := filepath.Join(s.nodes[string(collector)].dir, signal.String()+".jsonl")
			if err := s.command("receipt", "inspect", "--summary", "--keys", s.keys, file); err != nil {
				return err
			}
		}
	}
	return nil
}
