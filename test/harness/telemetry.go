package harness

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Sample is one line of a Prometheus exposition.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// Samples is what one scrape of a collector's own telemetry returned.
type Samples []Sample

// Scrape reads the internal telemetry at url (…/metrics).
func Scrape(ctx context.Context, url string) (Samples, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("scrape %s: %s", url, resp.Status)
	}
	return parseSamples(resp.Body)
}

func parseSamples(r io.Reader) (Samples, error) {
	var out Samples
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		if at < 0 {
			return nil, fmt.Errorf("sample %q has no value", line)
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("sample %q: %w", line, err)
		}
		name, rest, _ := strings.Cut(line[:at], "{")
		out = append(out, Sample{Name: name, Labels: parseLabels(strings.TrimSuffix(rest, "}")), Value: value})
	}
	return out, lines.Err()
}

func parseLabels(s string) map[string]string {
	labels := map[string]string{}
	for s != "" {
		key, rest, ok := strings.Cut(s, `="`)
		if !ok {
			break
		}
		end := 0
		for end < len(rest) && rest[end] != '"' {
			if rest[end] == '\\' {
				end++
			}
			end++
		}
		labels[strings.TrimPrefix(key, ",")] = rest[:min(end, len(rest))]
		s = rest[min(end+1, len(rest)):]
	}
	return labels
}

// Sum adds up the samples of a name whose labels include all of want, given as
// name, value, name, value.
func (s Samples) Sum(name string, want ...string) float64 {
	total := 0.0
next:
	for _, sample := range s {
		if sample.Name != name {
			continue
		}
		for i := 0; i+1 < len(want); i += 2 {
			if sample.Labels[want[i]] != want[i+1] {
				continue next
			}
		}
		total += sample.Value
	}
	return total
}

// Quantile estimates quantile q (0 to 1) of a histogram by linear
// interpolation in its buckets, as PromQL's histogram_quantile does. The unit
// is the histogram's own.
func (s Samples) Quantile(q float64, name string, want ...string) float64 {
	type bucket struct{ le, count float64 }
	var buckets []bucket
	seen := map[string]int{}
	for _, sample := range s {
		if sample.Name != name+"_bucket" || !sample.has(want) {
			continue
		}
		le := sample.Labels["le"]
		at, ok := seen[le]
		if !ok {
			bound, err := strconv.ParseFloat(le, 64)
			if err != nil {
				continue
			}
			at = len(buckets)
			seen[le] = at
			buckets = append(buckets, bucket{le: bound})
		}
		buckets[at].count += sample.Value
	}
	if len(buckets) == 0 || buckets[len(buckets)-1].count == 0 {
		return 0
	}
	rank := q * buckets[len(buckets)-1].count
	lower, before := 0.0, 0.0
	for _, b := range buckets {
		if b.count >= rank {
			if b.count == before || b.le > 1e300 {
				return lower
			}
			return lower + (b.le-lower)*(rank-before)/(b.count-before)
		}
		lower, before = b.le, b.count
	}
	return lower
}

func (s Sample) has(want []string) bool {
	for i := 0; i+1 < len(want); i += 2 {
		if s.Labels[want[i]] != want[i+1] {
			return false
		}
	}
	return true
}
