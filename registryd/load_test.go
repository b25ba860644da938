package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/auth"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// The load: as many agents, each with its key and one stream that asks for it.
const (
	loadAgents = 1000
	loadMemory = 300 << 10 // KiB
)

// child is a registryd of its own process.
type child struct {
	cmd   *exec.Cmd
	base  string
	token string
	log   chan string
}

func TestThousandStreamsAndLookupsFitIntoMemory(t *testing.T) {
	dir := t.TempDir()
	kids := fill(t, filepath.Join(dir, "registry.db"))
	c := startChild(t, dir, "--rate-address", "off")
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 0, MaxIdleConnsPerHost: 64}}

	streams := &counting{}
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	// A few at a time, as collectors come.
	opening := make(chan struct{}, 32)
	for range loadAgents {
		opening <- struct{}{}
		reading.Go(func() { streams.read(ctx, client, c, func() { <-opening }) })
	}
	require.Eventually(t, func() bool { return streams.open.Load() == loadAgents }, 30*time.Second, 20*time.Millisecond, "%s", streams)

	began := time.Now()
	lookups(t, client, c, kids)
	took := time.Since(began)

	// An event reaches all of them, and heartbeats go on.
	events, beats := streams.events.Load(), streams.heartbeats.Load()
	began = time.Now()
	resp := c.do(t, client, http.MethodPost, "/v1/keys/"+kids[0]+"/revoke", `{"reason":"stolen"}`)
	require.Equal(t, http.StatusOK, resp)
	require.Eventually(t, func() bool { return streams.events.Load() == events+loadAgents }, 2*time.Second, 10*time.Millisecond, "%s", streams)
	reached := time.Since(began)
	require.Eventually(t, func() bool { return streams.heartbeats.Load() >= beats+3*loadAgents }, 10*time.Second, 50*time.Millisecond, "%s", streams)

	rss, peak := memory(t, c.cmd.Process.Pid)
	t.Logf("%d streams, %d look-ups in %s, a revocation reached all in %s; RSS %d MiB, at most %d MiB",
		loadAgents, len(kids), took.Round(time.Millisecond), reached.Round(time.Millisecond), rss>>10, peak>>10)
	require.Less(t, peak, loadMemory, "KiB")
	require.EqualValues(t, loadAgents, streams.open.Load(), "none was cut off")
}

// fill puts enrolled machines into a store.
func fill(t *testing.T, name string) (kids []string) {
	t.Helper()
	db, err := store.Open(t.Context(), name, store.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	now := time.Now().UTC()
	require.NoError(t, db.Update(t.Context(), func(tx *store.Tx) error {
		kids = nil
		for i := range loadAgents {
			area, kid, err := publicArea()
			if err != nil {
				return err
			}
			hash := fmt.Sprintf("%064x", i)
			m := &store.Machine{
				EKHash: hash, Name: fmt.Sprintf("edge-%d", i), Labels: map[string]string{"site": "fra"}, Evidence: api.EvidenceChain,
				Membership: api.ByToken, CreatedAt: now, SeenAt: now,
			}
			if err := tx.PutMachine(m); err != nil {
				return err
			}
			k := &store.Key{KID: kid, EKHash: hash, State: api.StateEnrolled, Public: area, EnrolledAt: now, AttestedAt: now, ExpiresAt: now.Add(24 * time.Hour)}
			if err := tx.PutKey(k); err != nil {
				return err
			}
			kids = append(kids, kid)
		}
		return tx.Emit(store.Event{At: now, What: "enrolled", More: true})
	}))
	return kids
}

func publicArea() (area []byte, kid string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, "", err
	}
	area = tpm2.Marshal(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, SignEncrypt: true, UserWithAuth: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
		}),
	})
	digest := sha256.Sum256(area)
	return area, "000b" + hex.EncodeToString(digest[:]), nil
}

var serving = regexp.MustCompile(`"msg":"Serving\.","address":"([^"]+)"`)

// startChild builds registryd as it is shipped and starts it in dir.
func startChild(t *testing.T, dir string, args ...string) *child {
	t.Helper()
	bin := filepath.Join(dir, "registryd")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	token, entry, err := auth.NewToken("load", []string{"admin"})
	require.NoError(t, err)
	file, err := yaml.Marshal(auth.File{Tokens: []auth.FileToken{entry}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "auth.yaml"), file, 0o600))
	cmd := exec.Command(bin, append([]string{"--listen", "127.0.0.1:0", "--auth-file", "auth.yaml"}, args...)...)
	cmd.Dir = dir
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stderr)
	address := ""
	for address == "" && lines.Scan() {
		if m := serving.FindStringSubmatch(lines.Text()); m != nil {
			address = m[1]
		}
	}
	log, drained := make(chan string, 1000), make(chan struct{})
	go func() {
		defer close(drained)
		for lines.Scan() {
			select {
			case log <- lines.Text():
			default: // nobody reads it
			}
		}
		_, _ = io.Copy(io.Discard, stderr) // behind a line that is too long
	}()
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		<-drained
		require.NoError(t, cmd.Wait(), "registryd did not end well")
	})
	require.NotEmpty(t, address, "registryd did not start")
	return &child{cmd: cmd, base: "http://" + address, token: token, log: log}
}

// said returns the next line of the log that contains text.
func (c *child) said(t *testing.T, text string) string {
	t.Helper()
	end := time.After(10 * time.Second)
	for {
		select {
		case line := <-c.log:
			if strings.Contains(line, text) {
				return line
			}
		case <-end:
			require.Fail(t, "the log does not say: "+text)
		}
	}
}

func (c *child) request(ctx context.Context, method, path, body string) *http.Request {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	if body == "" {
		req.Body, req.ContentLength = http.NoBody, 0
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	return req
}

func (c *child) do(t *testing.T, client *http.Client, method, path, body string) int {
	t.Helper()
	resp, err := client.Do(c.request(t.Context(), method, path, body))
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	return resp.StatusCode
}

// lookups asks for every key, as verifiers do.
func lookups(t *testing.T, client *http.Client, c *child, kids []string) {
	t.Helper()
	var wg sync.WaitGroup
	work := make(chan string)
	var failed atomic.Int64
	for range 32 {
		wg.Go(func() {
			for kid := range work {
				resp, err := client.Do(c.request(t.Context(), http.MethodGet, "/v1/keys/"+kid+"?nonce="+strings.Repeat("A", 43), ""))
				if err != nil {
					failed.Add(1)
					continue
				}
				n, _ := io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/cose" || n < 500 {
					failed.Add(1)
				}
			}
		})
	}
	for _, kid := range kids {
		work <- kid
	}
	close(work)
	wg.Wait()
	require.Zero(t, failed.Load())
}

// counting counts what comes over all streams.
type counting struct {
	open, events, heartbeats, refused atomic.Int64
}

func (s *counting) String() string {
	return fmt.Sprintf("%d open, %d refused, %d events, %d heartbeats", s.open.Load(), s.refused.Load(), s.events.Load(), s.heartbeats.Load())
}

func (s *counting) read(ctx context.Context, client *http.Client, c *child, opened func()) {
	resp, err := client.Do(c.request(ctx, http.MethodGet, "/v1/events?nonce="+strings.Repeat("A", 43), ""))
	opened()
	if err != nil {
		s.refused.Add(1)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		s.refused.Add(1)
		return
	}
	s.open.Add(1)
	defer s.open.Add(-1)
	lines := bufio.NewReaderSize(resp.Body, 4<<10)
	for {
		line, err := lines.ReadString('\n')
		switch {
		case err != nil:
			return
		case line == "event: heartbeat\n":
			s.heartbeats.Add(1)
		case strings.HasPrefix(line, "event: "):
			s.events.Add(1)
		}
	}
}

// memory reads what a process holds, now and at most, in KiB.
func memory(t *testing.T, pid int) (now, peak int) {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) < 2:
		case fields[0] == "VmRSS:":
			now, err = strconv.Atoi(fields[1])
			require.NoError(t, err)
		case fields[0] == "VmHWM:":
			peak, err = strconv.Atoi(fields[1])
			require.NoError(t, err)
		}
	}
	require.NotZero(t, now)
	require.NotZero(t, peak)
	return now, peak
}
