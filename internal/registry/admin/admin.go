// Package admin is the client of those who run a registry: it calls what
// registryd/internal/server/openapi.yaml describes, with a role. Refusals come
// back as *api.Error. Verifiers have a client of their own (internal/registry),
// and so have machines (internal/registry/enrolment).
package admin

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
)

// maxAnswer bounds what is read of an answer in bytes.
const maxAnswer = 32 << 20

// Client calls one registry. It is safe for concurrent use.
type Client struct {
	base  string
	http  *http.Client
	token string
}

// New returns a Client of the registry at a base URL. token is a bearer token,
// or "" where a client certificate or nobody is enough; it is only sent over TLS
// and to this machine.
func New(base string, client *http.Client, token string) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return nil, errors.New("the registry is named by an http or https URL without user and query, like https://registry.example:3000")
	}
	if token != "" && u.Scheme == "http" && !local(u.Hostname()) {
		return nil, errors.New("a token is not sent over plain HTTP to another machine: use https")
	}
	if strings.ContainsAny(token, "\r\n ") {
		return nil, errors.New("the token holds white space: its file has to hold one token and nothing else")
	}
	return &Client{base: strings.TrimSuffix(u.String(), "/"), http: client, token: token}, nil
}

func local(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}

// call sends one request. Body and into may be nil; into may be *[]byte for an
// answer that is not JSON.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, body, into any) error {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		content = bytes.NewReader(encoded)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, content)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("call the registry: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the registry's answer: %w", err)
	case len(answer) > maxAnswer:
		return fmt.Errorf("the registry's answer has more than %d bytes", maxAnswer)
	case resp.StatusCode >= http.StatusMultipleChoices:
		return refusal(resp.StatusCode, answer)
	}
	return decode(answer, into)
}

func decode(answer []byte, into any) error {
	switch into := into.(type) {
	case nil:
		return nil
	case *[]byte:
		*into = answer
		return nil
	default:
		if err := json.Unmarshal(answer, into); err != nil {
			return fmt.Errorf("read the registry's answer: %w", err)
		}
		return nil
	}
}

// refusal turns an answer into the error that the registry meant. What is no
// refusal of a registry (a proxy's page) is not repeated.
func refusal(status int, answer []byte) error {
	var body api.ErrorBody
	if err := json.Unmarshal(answer, &body); err != nil || !body.Reason.Known() {
		return fmt.Errorf("the registry answered %d %s, without a reason: is this its address, and is it http or https?", status, http.StatusText(status))
	}
	return &api.Error{Reason: body.Reason, Detail: strings.TrimPrefix(body.Error, string(body.Reason)+": ")}
}

// Machines returns one page of machines.
func (c *Client) Machines(ctx context.Context, query url.Values) (*api.Page[api.Machine], error) {
	var out api.Page[api.Machine]
	err := c.call(ctx, http.MethodGet, "/v1/machines", query, nil, &out)
	return &out, err
}

// Machine returns a machine by name or EK hash.
func (c *Client) Machine(ctx context.Context, id string) (*api.Machine, error) {
	var out api.Machine
	err := c.call(ctx, http.MethodGet, "/v1/machines/"+url.PathEscape(id), nil, nil, &out)
	return &out, err
}

// Import sends a part of an inventory.
func (c *Client) Import(ctx context.Context, r *api.ImportRequest) (*api.ImportResult, error) {
	var out api.ImportResult
	err := c.call(ctx, http.MethodPost, "/v1/machines/import", nil, r, &out)
	return &out, err
}

// Approve lets a machine in.
func (c *Client) Approve(ctx context.Context, id string, r *api.ApproveRequest) (*api.Machine, error) {
	var out api.Machine
	err := c.call(ctx, http.MethodPost, "/v1/machines/"+url.PathEscape(id)+"/approve", nil, r, &out)
	return &out, err
}

// Reject deletes a machine that waits.
func (c *Client) Reject(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, "/v1/machines/"+url.PathEscape(id)+"/reject", nil, nil, nil)
}

// Replace gives a machine's name to another one.
func (c *Client) Replace(ctx context.Context, id string, r *api.ReplaceRequest) (*api.Machine, error) {
	var out api.Machine
	err := c.call(ctx, http.MethodPost, "/v1/machines/"+url.PathEscape(id)+"/replace", nil, r, &out)
	return &out, err
}

// RevokeMachine revokes a machine and its keys.
func (c *Client) RevokeMachine(ctx context.Context, id, why string) (*api.Machine, error) {
	var out api.Machine
	err := c.call(ctx, http.MethodPost, "/v1/machines/"+url.PathEscape(id)+"/revoke", nil, api.RevokeRequest{Reason: why}, &out)
	return &out, err
}

// RevokeKey revokes a key.
func (c *Client) RevokeKey(ctx context.Context, kid, why string) (*api.Key, error) {
	var out api.Key
	err := c.call(ctx, http.MethodPost, "/v1/keys/"+url.PathEscape(kid)+"/revoke", nil, api.RevokeRequest{Reason: why}, &out)
	return &out, err
}

// RevokeInstance revokes a TDX instance.
func (c *Client) RevokeInstance(ctx context.Context, pubkey, why string) (*api.Instance, error) {
	var out api.Instance
	err := c.call(ctx, http.MethodPost, "/v1/instances/"+url.PathEscape(pubkey)+"/revoke", nil, api.RevokeRequest{Reason: why}, &out)
	return &out, err
}

// Key returns a key.
func (c *Client) Key(ctx context.Context, kid string) (*api.Key, error) {
	var out api.Key
	err := c.call(ctx, http.MethodGet, "/v1/keys/"+url.PathEscape(kid), nil, nil, &out)
	return &out, err
}

// Instances returns one page of TDX instances.
func (c *Client) Instances(ctx context.Context, query url.Values) (*api.Page[api.Instance], error) {
	var out api.Page[api.Instance]
	err := c.call(ctx, http.MethodGet, "/v1/instances", query, nil, &out)
	return &out, err
}

// Instance returns a TDX instance.
func (c *Client) Instance(ctx context.Context, pubkey string) (*api.Instance, error) {
	var out api.Instance
	err := c.call(ctx, http.MethodGet, "/v1/instances/"+url.PathEscape(pubkey), nil, nil, &out)
	return &out, err
}

// CreateToken makes a join token.
func (c *Client) CreateToken(ctx context.Context, r *api.TokenRequest) (*api.TokenCreated, error) {
	var out api.TokenCreated
	err := c.call(ctx, http.MethodPost, "/v1/tokens", nil, r, &out)
	return &out, err
}

// Tokens lists join tokens.
func (c *Client) Tokens(ctx context.Context) ([]api.TokenInfo, error) {
	var out api.Page[api.TokenInfo]
	err := c.call(ctx, http.MethodGet, "/v1/tokens", nil, nil, &out)
	return out.Items, err
}

// DeleteToken ends a join token.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), nil, nil, nil)
}

// Policies lists policies.
func (c *Client) Policies(ctx context.Context) ([]api.Policy, error) {
	var out api.Page[api.Policy]
	err := c.call(ctx, http.MethodGet, "/v1/policies", nil, nil, &out)
	return out.Items, err
}

// PutPolicy writes a policy.
func (c *Client) PutPolicy(ctx context.Context, p *api.Policy) (*api.Policy, error) {
	var out api.Policy
	err := c.call(ctx, http.MethodPut, "/v1/policies/"+url.PathEscape(p.Scope), nil, p, &out)
	return &out, err
}

// DeletePolicy removes a policy.
func (c *Client) DeletePolicy(ctx context.Context, scope string) error {
	return c.call(ctx, http.MethodDelete, "/v1/policies/"+url.PathEscape(scope), nil, nil, nil)
}

// AuditEntries returns up to limit entries of the audit log behind after.
func (c *Client) AuditEntries(ctx context.Context, after uint64, limit int) ([]audit.Entry, error) {
	var out api.Page[audit.Entry]
	query := url.Values{"after": {strconv.FormatUint(after, 10)}, "limit": {strconv.Itoa(limit)}}
	err := c.call(ctx, http.MethodGet, "/v1/audit", query, nil, &out)
	return out.Items, err
}

// AuditHead returns the signed end of the audit log, an answer.AuditHead.
func (c *Client) AuditHead(ctx context.Context, nonce []byte) ([]byte, error) {
	var out []byte
	query := url.Values{"nonce": {base64.RawURLEncoding.EncodeToString(nonce)}}
	err := c.call(ctx, http.MethodGet, "/v1/audit/head", query, nil, &out)
	return out, err
}

// Snapshot returns the keys that changed after a revision, an
// answer.Snapshot under the registry's signature.
func (c *Client) Snapshot(ctx context.Context, since uint64, nonce []byte) ([]byte, error) {
	var out []byte
	query := url.Values{"since": {strconv.FormatUint(since, 10)}, "nonce": {base64.RawURLEncoding.EncodeToString(nonce)}}
	err := c.call(ctx, http.MethodGet, "/v1/keys", query, nil, &out)
	return out, err
}
