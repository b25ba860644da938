package matrix

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"time"
)

// nonceRule is what becomes of the nonces of a key.
type nonceRule struct {
	other  string            // ask for this kid instead
	keep   bool              // hand out the first one again and again, as if it were new
	kept   map[string]string // that one
	served int
}

// nonce relays a request for a nonce to the gateway.
func (y *way) nonce(rw http.ResponseWriter, req *http.Request) {
	kid := req.URL.Query().Get("kid")
	ask, answer := y.asked(kid)
	if answer == nil {
		body, code, err := y.fetch(req, ask)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadGateway)
			return
		}
		if code != http.StatusOK || json.Unmarshal(body, &answer) != nil {
			rw.WriteHeader(code)
			_, _ = rw.Write(body)
			return
		}
	}
	y.handedOut(kid, answer)
	answer["kid"] = kid
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(answer)
}

// asked returns the kid to ask for, or what is handed out without asking.
func (y *way) asked(kid string) (ask string, answer map[string]string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	rule := y.nonces[kid]
	switch {
	case rule == nil:
		return kid, nil
	case rule.other != "":
		return rule.other, nil
	default:
		return kid, maps.Clone(rule.kept)
	}
}

// handedOut counts an answer, and keeps it where the rule says so. One that was
// kept seems to be new.
func (y *way) handedOut(kid string, answer map[string]string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	rule := y.nonces[kid]
	if rule == nil {
		return
	}
	rule.served++
	if rule.keep {
		rule.kept = maps.Clone(answer)
		issued := time.Now()
		answer["issued_at"], answer["expires_at"] = issued.Format(time.RFC3339Nano), issued.Add(time.Hour).Format(time.RFC3339Nano)
	}
}

func (y *way) fetch(req *http.Request, kid string) (body []byte, code int, err error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: y.world.networkTLS(), DisableKeepAlives: true}}
	up, err := http.NewRequestWithContext(req.Context(), http.MethodGet, y.world.scheme()+"://"+y.world.nodes[string(gateway)].http+"/nonce?kid="+kid, http.NoBody)
	if err != nil {
		return nil, 0, err
	}
	resp, err := client.Do(up)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return body, resp.StatusCode, err
}

// rig sets the rule for a key and waits until the agent signs under a nonce that
// went by it: it has asked once more since it got one.
func (y *way) rig(kid string, rule *nonceRule) error {
	y.mu.Lock()
	y.nonces[kid] = rule
	y.mu.Unlock()
	return eventually(func() error {
		y.mu.Lock()
		defer y.mu.Unlock()
		if rule.served < 2 {
			return fmt.Errorf("the agent has asked for %d nonces of 2", rule.served)
		}
		return nil
	})
}
