package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// startProfiles takes CPU profiles of the first two variants for as long as the
// cell takes, one file each; the function it returns waits for them.
func (m *measurement) startProfiles(ctx context.Context) func() error {
	if m.profiles == "" {
		return func() error { return nil }
	}
	if err := os.MkdirAll(m.profiles, 0o750); err != nil {
		return func() error { return err }
	}
	var group sync.WaitGroup
	var errs [2]error
	for i, c := range []*collector{m.variants().with, m.variants().base} {
		name := strings.ReplaceAll(m.name(), "/", "-") + [...]string{"-with", "-base"}[i] + ".pprof"
		group.Go(func() { errs[i] = takeProfile(ctx, c.pprof, m.plan.cell, filepath.Join(m.profiles, name)) })
	}
	return func() error {
		group.Wait()
		return errors.Join(errs[:]...)
	}
}

func takeProfile(ctx context.Context, endpoint string, length time.Duration, file string) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", endpoint, max(1, int(length.Seconds())))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("taking a profile: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("taking a profile: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("taking a profile: %s: %s", resp.Status, content)
	}
	return os.WriteFile(file, content, 0o600)
}
