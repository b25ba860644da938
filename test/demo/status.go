package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// stream is what the demonstration reads of a line of the status page.
type stream struct {
	KID        string         `json:"kid"`
	Stream     string         `json:"stream"`
	Verified   int            `json:"verified"`
	Refused    map[string]int `json:"refused"`
	GapsOpen   int            `json:"gaps_open"`
	Reported   int            `json:"gaps_reported"` // of those that are open
	GapsClosed int            `json:"gaps_closed"`
}

// status reads the collector's status page to its end.
func (d *demo) status(ctx context.Context) ([]stream, error) {
	token, err := os.ReadFile(filepath.Join(d.certs, "admin.token"))
	if err != nil {
		return nil, err
	}
	var out []stream
	cursor := ""
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.addr("collector.admin")+"/metrics/status?cursor="+cursor, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		var page struct {
			Streams []stream `json:"streams"`
			Next    string   `json:"next"`
		}
		err = json.NewDecoder(resp.Body).Decode(&page)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return nil, fmt.Errorf("status page: %w", err)
		}
		out = append(out, page.Streams...)
		if page.Next == "" {
			return out, nil
		}
		cursor = page.Next
	}
}

// openGaps counts the blocks that are missing, those of the attacks left out.
func (d *demo) openGaps(ctx context.Context) (int, error) {
	streams, err := d.status(ctx)
	if err != nil {
		return 0, err
	}
	gaps := 0
	for _, s := range streams {
		if s.Stream != attackedStream {
			gaps += s.GapsOpen + s.GapsClosed
		}
	}
	return gaps, nil
}

// attackedGaps counts the blocks that are missing because of the attacks, and
// those of them that were reported.
func (d *demo) attackedGaps(ctx context.Context) (open, reported int, err error) {
	streams, err := d.status(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, s := range streams {
		if s.Stream == attackedStream {
			open += s.GapsOpen
			reported += s.Reported
		}
	}
	return open, reported, nil
}

// rejectedBlocks counts refusals by agent and signal, those of the attacks
// left out.
func (d *demo) rejectedBlocks(ctx context.Context) (map[string]int, error) {
	streams, err := d.status(ctx)
	if err != nil {
		return nil, err
	}
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, s := range streams {
		signal := s.Stream[strings.LastIndexByte(s.Stream, ':')+1:]
		for _, n := range s.Refused {
			if s.Stream != attackedStream && names[s.KID] != "" {
				out[names[s.KID]+"/"+signal] += n
			}
		}
	}
	return out, nil
}
