package nonceextension

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configauth"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"

	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/replay"
)

func TestNonceIsOneThatTheVerifierAccepts(t *testing.T) {
	e := start(t, componenttest.NewNopHost(), testConfig(t, func(c *Config) { c.Audience, c.Length = "prod", 40 }))
	var a nonceAnswer
	before := time.Now().Truncate(time.Millisecond)
	resp := get(t, e.url+"/nonce?kid="+strings.ToUpper(kid1), &a)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	require.Equal(t, kid1, a.KID)
	require.Equal(t, "prod", a.Audience)
	require.Len(t, a.Nonce, 80)

	n, err := hex.DecodeString(a.Nonce)
	require.NoError(t, err)
	kid, err := hex.DecodeString(kid1)
	require.NoError(t, err)
	issued, err := e.Nonces().Check(n, kid)
	require.NoError(t, err)
	require.False(t, issued.Before(before))
	at, err := time.Parse(time.RFC3339, a.IssuedAt)
	require.NoError(t, err)
	require.True(t, issued.Equal(at))
	until, err := time.Parse(time.RFC3339, a.ExpiresAt)
	require.NoError(t, err)
	require.Equal(t, 24*time.Hour, until.Sub(at))

	other, err := hex.DecodeString(kid2)
	require.NoError(t, err)
	_, err = e.Nonces().Check(n, other)
	require.Equal(t, reason.NonceForeign, reason.Of(err))
}

func TestManyNoncesInOneRequest(t *testing.T) {
	e := start(t, componenttest.NewNopHost(), testConfig(t))
	kids := make([]string, maxKIDs)
	for i := range kids {
		kids[i] = fmt.Sprintf("000b%064x", i)
	}
	body, err := json.Marshal(kidsRequest{kids})
	require.NoError(t, err)
	var a noncesAnswer
	resp := call(t, plainClient(t), http.MethodPost, e.url+"/nonces", string(body), &a)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Len(t, a.Nonces, maxKIDs)
	seen := map[string]bool{}
	for i, n := range a.Nonces {
		require.Equal(t, kids[i], n.KID)
		seen[n.Nonce] = true
	}
	require.Len(t, seen, maxKIDs)
}

func TestBadRequestsAreRefusedInJSON(t *testing.T) {
	e := start(t, componenttest.NewNopHost(), testConfig(t))
	c := plainClient(t)
	tooMany, err := json.Marshal(kidsRequest{make([]string, maxKIDs+1)})
	require.NoError(t, err)
	for _, tc := range []struct {
		method, path, body string
		status             int
		reason             code
	}{
		{"GET", "/nonce", "", 400, codeKIDMissing},
		{"GET", "/nonce?kid=", "", 400, codeKIDMissing},
		{"GET", "/nonce?kid=zz", "", 400, codeKIDInvalid},
		{"GET", "/nonce?kid=000b11", "", 400, codeKIDInvalid},
		{"GET", "/nonce?kid=" + kid1 + "00", "", 400, codeKIDInvalid},
		{"GET", "/nonce?kid=000c" + kid1[4:], "", 400, codeKIDInvalid},
		{"GET", "/nonce?kid=" + strings.Repeat("0", 60000), "", 400, codeKIDInvalid},
		{"POST", "/nonce?kid=" + kid1, "", 405, codeMethodNotAllowed},
		{"GET", "/nonces", "", 405, codeMethodNotAllowed},
		{"POST", "/nonces", "", 400, codeRequestInvalid},
		{"POST", "/nonces", "[]", 400, codeRequestInvalid},
		{"POST", "/nonces", `{"kids":[]}`, 400, codeKIDMissing},
		{"POST", "/nonces", `{"kids":["` + kid1 + `",""]}`, 400, codeKIDMissing},
		{"POST", "/nonces", `{"kids":["` + kid1 + `"],"x":1}`, 400, codeRequestInvalid},
		{"POST", "/nonces", `{"kids":["` + kid1 + `"]}{}`, 400, codeRequestInvalid},
		{"POST", "/nonces", string(tooMany), 400, codeKIDsTooMany},
		{"POST", "/nonces", `{"kids":["` + strings.Repeat("0", defaultBody) + `"]}`, 413, codeRequestTooLarge},
		{"GET", "/", "", 404, codeNotFound},
		{"GET", "/metrics/status", "", 404, codeNotFound},
		{"POST", "/nonces/cleanup", "", 404, codeNotFound},
	} {
		requireRefused(t, c, tc.method, e.url+tc.path, tc.body, tc.status, tc.reason)
	}
	var a errorAnswer
	get(t, e.url+"/nonce", &a)
	require.Equal(t, "collector", a.RejectedBy)
	require.Equal(t, "POST", call(t, c, http.MethodGet, e.url+"/nonces", "", &a).Header.Get("Allow"))
}

func TestCompressedBombIsRefused(t *testing.T) {
	e := start(t, componenttest.NewNopHost(), testConfig(t))
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err := w.Write([]byte(`{"kids":["` + strings.Repeat("0", 50<<20)))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.Less(t, zipped.Len(), defaultBody)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.url+"/nonces", &zipped)
	require.NoError(t, err)
	req.Header.Set("Content-Encoding", "gzip")
	resp, err := plainClient(t).Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
}

func TestHealth(t *testing.T) {
	e := start(t, componenttest.NewNopHost(), testConfig(t))
	var h healthAnswer
	require.Equal(t, http.StatusOK, get(t, e.url+"/health", &h).StatusCode)
	require.Equal(t, healthAnswer{Status: healthOK, Role: roleIssuer}, h)
	require.Equal(t, http.StatusOK, call(t, plainClient(t), http.MethodHead, e.url+"/health", "", nil).StatusCode)
}

// block is block n of a stream of kid1.
func block(n uint64, stream string) replay.Block {
	kid, _ := hex.DecodeString(kid1)
	b := replay.Block{Scope: "tpmverify", KID: string(kid), Epoch: 1, Stream: stream, No: n, Seq: n, Issued: time.Now()}
	b.Statement[0], b.Prev[0] = byte(n), byte(n-1)
	return b
}

func accept(t *testing.T, w replay.Store, blocks ...replay.Block) {
	t.Helper()
	out, err := w.Claim(t.Context(), time.Now(), blocks)
	require.NoError(t, err)
	claims := make([]replay.Claim, len(out))
	for i := range out {
		require.Empty(t, out[i].Reason)
		claims[i] = out[i].Claim
	}
	lost, err := w.Confirm(t.Context(), time.Now(), claims)
	require.NoError(t, err)
	require.Zero(t, lost)
}

func TestStatusShowsStreamsPageByPage(t *testing.T) {
	e := start(t, componenttest.NewNopHost(), testConfig(t))
	first := block(1, "tpmsign:logs")
	first.Location = &replay.LatLon{Latitude: 48.5, Longitude: 16.25}
	accept(t, e.Windows(), first, block(3, "tpmsign:logs"), block(3, "tpmsign:metrics"))
	e.Windows().Refused("tpmverify", first.KID, "tpmsign:logs", reason.DigestMismatch)
	e.Windows().Refused("tpmverify", "\xff\xfe", "?", reason.UnknownKey)

	var p statusAnswer
	require.Equal(t, http.StatusOK, get(t, e.adm+"/metrics/status?kid="+kid1+"&limit=1", &p).StatusCode)
	require.Len(t, p.Streams, 1)
	s := p.Streams[0]
	require.Equal(t, kid1, s.KID)
	require.Equal(t, uint64(2), s.Verified)
	require.Equal(t, uint64(1), s.GapsOpen)
	require.Equal(t, uint64(3), s.LastBlock)
	require.Equal(t, &locationAnswer{48.5, 16.25}, s.LastLocation)
	require.Equal(t, map[reason.Reason]uint64{reason.DigestMismatch: 1}, s.Refused)
	_, err := time.Parse(time.RFC3339, s.LastSeen)
	require.NoError(t, err)

	var rest statusAnswer
	get(t, e.adm+"/metrics/status?kid="+kid1+"&limit=5&cursor="+p.Next, &rest)
	require.Len(t, rest.Streams, 1)
	require.Equal(t, "tpmsign:metrics", rest.Streams[0].Stream)
	require.Empty(t, rest.Next)

	var all statusAnswer
	get(t, e.adm+"/metrics/status", &all)
	require.Len(t, all.Streams, 3)
	require.Equal(t, "fffe", all.Streams[2].KID)
	require.Zero(t, all.Streams[2].Epoch)
}

func TestAdminRequests(t *testing.T) {
	e := start(t, componenttest.NewNopHost(), testConfig(t))
	c := plainClient(t)
	requireRefused(t, c, "GET", e.adm+"/metrics/status?kid=xyz", "", 400, codeKIDInvalid)
	requireRefused(t, c, "GET", e.adm+"/metrics/status?limit=0", "", 400, codeLimitInvalid)
	requireRefused(t, c, "GET", e.adm+"/metrics/status?limit=1001", "", 400, codeLimitInvalid)
	requireRefused(t, c, "GET", e.adm+"/metrics/status?cursor=!", "", 400, codeCursorInvalid)
	requireRefused(t, c, "GET", e.adm+"/nonces/cleanup", "", 405, codeMethodNotAllowed)
	requireRefused(t, c, "GET", e.adm+"/nonce?kid="+kid1, "", 404, codeNotFound)

	accept(t, e.Windows(), block(1, "tpmsign:logs"))
	var a struct{ Removed int }
	call(t, c, http.MethodPost, e.adm+"/nonces/cleanup", "", &a)
	require.Zero(t, a.Removed, "nothing is expired")
}

func TestPageInABrowserOfThisMachineCannotReachTheAdminListener(t *testing.T) {
	e := start(t, componenttest.NewNopHost(), testConfig(t))
	port := e.adm[strings.LastIndex(e.adm, ":"):]
	for _, tc := range []struct {
		method, path, host, origin string
		status                     int
	}{
		{"GET", "/metrics/status", "", "", 200},
		{"GET", "/metrics/status", "localhost" + port, "", 200},
		{"GET", "/metrics/status", "[::1]" + port, "", 200},
		{"GET", "/metrics/status", "localhost", "", 200},
		{"GET", "/metrics/status", "evil.example" + port, "", 403}, // rebound to 127.0.0.1
		{"GET", "/metrics/status", "localhost.evil.example", "", 403},
		{"POST", "/nonces/cleanup", "", "", 200},
		{"POST", "/nonces/cleanup", "", "https://evil.example", 403},
		{"POST", "/nonces/cleanup", "", "null", 403},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, e.adm+tc.path, nil)
		require.NoError(t, err)
		req.Host = tc.host
		if tc.origin != "" {
			req.Header.Set("Origin", tc.origin)
		}
		resp, err := plainClient(t).Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, tc.status, resp.StatusCode, "%+v", tc)
	}
}

func TestTricklingRequestIsNotKept(t *testing.T) {
	defaults := createDefaultConfig().(*Config)
	for _, s := range []*confighttp.ServerConfig{&defaults.ServerConfig, &defaults.Admin} {
		require.Positive(t, s.ReadTimeout)
		require.Positive(t, s.ReadHeaderTimeout)
	}
	cfg := testConfig(t, func(c *Config) {
		c.ServerConfig.ReadTimeout, c.ServerConfig.ReadHeaderTimeout = 50*time.Millisecond, 50*time.Millisecond
	})
	e := start(t, componenttest.NewNopHost(), cfg)
	for _, begun := range []string{"POST /nonces HTTP/1.1\r\nHost: a\r\nContent-Le", "POST /nonces HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(e.url, "http://"))
		require.NoError(t, err)
		_, err = conn.Write([]byte(begun))
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err = io.Copy(io.Discard, conn)
		require.NoError(t, err, "the server has not closed the connection")
		require.NoError(t, conn.Close())
	}
}

// passwordAuth is a server authenticator.
type passwordAuth struct {
	component.StartFunc
	component.ShutdownFunc
}

func (passwordAuth) Authenticate(ctx context.Context, headers map[string][]string) (context.Context, error) {
	if h := headers["Authorization"]; len(h) != 1 || h[0] != "Bearer right" {
		return nil, errors.New("wrong token")
	}
	return ctx, nil
}

func TestAdminNeedsItsAuth(t *testing.T) {
	id := component.MustNewID("bearertokenauth")
	e := start(t, hostWith(id, passwordAuth{}), testConfig(t, func(c *Config) {
		c.Admin.Auth = configoptional.Some(confighttp.AuthConfig{Config: configauth.Config{AuthenticatorID: id}})
	}))
	requireRefused(t, plainClient(t), "GET", e.adm+"/metrics/status", "", 401, codeUnauthorized)
	requireRefused(t, plainClient(t), "POST", e.adm+"/nonces/cleanup", "", 401, codeUnauthorized)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.adm+"/metrics/status", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer right")
	resp, err := plainClient(t).Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
}
