package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Ask gets what a daemon says of its health. An answer other than 200 is an
// error with the daemon's own words, as far as they are a refusal's.
func Ask(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", url, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", url, err)
	}
	if resp.StatusCode == http.StatusOK {
		return strings.TrimSpace(string(body)), nil
	}
	var refused struct {
		Error  string `json:"error"`
		Reason string `json:"reason"`
	}
	if json.Unmarshal(body, &refused) == nil && refused.Reason != "" {
		return "", fmt.Errorf("%s answers %s: %.512q", url, resp.Status, refused.Error)
	}
	return "", fmt.Errorf("%s answers %s", url, resp.Status)
}
