package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/registry/answer"
)

const (
	maxWitness  = 64 << 10
	witnessSkew = time.Minute
)

// witness is a registry that says which counter it saw last of an identity, for an
// owner's machine that may have seen less.
type witness struct {
	registry connection
	pin      string
}

func (w *witness) flags(f *pflag.FlagSet) {
	f.StringVar(&w.registry.url, "registry", os.Getenv(envRegistry), "registry that is asked, with --pin, which counter it saw last ($"+envRegistry+")")
	f.StringVar(&w.registry.ca, "registry-ca", os.Getenv(envRegistryCA), "CA certificates that the registry's is checked with ($"+envRegistryCA+")")
	f.StringVar(&w.pin, "pin", "", "file with the registry's public key: ask it as a second witness")
}

// seen asks for the highest counter that the registry saw; 0 where it is not to be
// asked. An answer that cannot be had is an error: whoever asks for a second
// witness goes nowhere without it.
func (w *witness) seen(ctx context.Context, origin []byte) (uint64, error) {
	if w.pin == "" {
		return 0, nil
	}
	if w.registry.url == "" {
		return 0, errors.New("--pin: which registry? Give --registry URL or set " + envRegistry)
	}
	verifier, err := readPin(w.pin)
	if err != nil {
		return 0, err
	}
	config, err := w.registry.tls()
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: registryTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	n, err := askWitness(ctx, client, w.registry.url, verifier, origin)
	if err != nil {
		return 0, work(fmt.Errorf("ask the registry for the counter that it saw: %w\nThe volume's key was not sent. Leave out --pin to go by this machine's memory alone", err))
	}
	return n, nil
}

// askWitness asks under a fresh nonce, and believes the registry's signature only.
func askWitness(ctx context.Context, client *http.Client, registry string, verifier *answer.Verifier, origin []byte) (uint64, error) {
	nonce := make([]byte, 32)
	rand.Read(nonce)
	asked := time.Now()
	target := strings.TrimRight(registry, "/") + "/v1/identities/" + api.Hex(origin).String() + "?nonce=" + base64.RawURLEncoding.EncodeToString(nonce)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	signed, err := io.ReadAll(io.LimitReader(resp.Body, maxWitness+1))
	switch {
	case err != nil:
		return 0, err
	case resp.StatusCode != http.StatusOK:
		return 0, fmt.Errorf("it answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	case len(signed) > maxWitness:
		return 0, fmt.Errorf("its answer has more than %d bytes", maxWitness)
	}
	var i answer.Identity
	if err := verifier.Open(answer.KindIdentity, signed, &i); err != nil {
		return 0, err
	}
	return i.Counter, i.Answers(origin, nonce, asked, time.Now(), witnessSkew)
}
