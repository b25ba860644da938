package collateral

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
)

// Intel's service, and where its root's revocation list is.
const (
	IntelURL        = "https://api.trustedservices.intel.com"
	intelRootCRLURL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
)

// Service is Intel's service or a caching one. Each document is asked for
// once: what fails is asked for again by a later verification, not by waiting.
type Service struct {
	base, rootCRL string
	client        *http.Client
}

// NewService returns the service at a URL; Intel's when it is empty. The URL
// may end in /sgx/certification/v4, as configurations of Intel's own libraries
// have it. http is taken too, since nothing is trusted for where it came from.
func NewService(at string, config *tls.Config) (*Service, error) {
	if at == "" {
		at = IntelURL
	}
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%.128q is not the URL of a service for collateral: https://host[:port]", at)
	}
	base := strings.TrimRight(u.String(), "/")
	for _, kind := range []string{"/sgx", "/tdx"} {
		base = strings.TrimSuffix(base, kind+"/certification/v4")
	}
	if strings.Contains(base, "/certification/") {
		return nil, fmt.Errorf("%.128q: version 4 of the API is spoken", at)
	}
	s := &Service{base: base, rootCRL: base + "/sgx/certification/v4/rootcacrl"}
	if base == IntelURL {
		s.rootCRL = intelRootCRLURL
	}
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	s.client = &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: 10 * time.Second,
			MaxResponseHeaderBytes: 2 * maxChain, DisableCompression: true,
			MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the service redirects, which is not followed")
		},
	}
	return s, nil
}

// Get implements Source. The four documents are asked for at once.
func (s *Service) Get(ctx context.Context, fmspc, ca string) (*tdx.Collateral, error) {
	c := &tdx.Collateral{}
	requests := []request{
		{s.base + "/tdx/certification/v4/tcb?fmspc=" + url.QueryEscape(fmspc), maxJSON, []string{"TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"}, &c.TCBInfo, &c.TCBInfoChain},
		{s.base + "/tdx/certification/v4/qe/identity", maxJSON, []string{"SGX-Enclave-Identity-Issuer-Chain"}, &c.QEIdentity, &c.QEIdentityChain},
		{s.base + "/sgx/certification/v4/pckcrl?encoding=der&ca=" + url.QueryEscape(ca), maxCRL, []string{"SGX-PCK-CRL-Issuer-Chain"}, &c.PCKCRL, &c.PCKCRLChain},
		{s.rootCRL, maxCRL, nil, &c.RootCRL, nil},
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for _, r := range requests {
		group.Go(func() {
			if err := s.fetch(ctx, r); err != nil {
				cancel(err) // the first one is the cause
			}
		})
	}
	group.Wait()
	if err := context.Cause(ctx); err != nil {
		if _, ok := errors.AsType[*api.Error](err); ok {
			return nil, err
		}
		return nil, api.Because(api.CollateralUnavailable, err)
	}
	c.PCKCRL, c.RootCRL = binary(c.PCKCRL), binary(c.RootCRL)
	return c, nil
}

type request struct {
	url     string
	limit   int64
	headers []string // that the issuer chain may be in
	body    *[]byte
	chain   *[]byte
}

func (s *Service) fetch(ctx context.Context, r request) error {
	what := strings.TrimPrefix(r.url, s.base)
	failed := func(err error) error {
		return &api.Error{Reason: api.CollateralUnavailable, Detail: what, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return failed(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return failed(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return api.Refuse(api.CollateralUnavailable, "%s: the service answers %d", what, resp.StatusCode)
	}
	*r.body, err = readAll(resp.Body, r.limit)
	if errors.Is(err, errTooLarge) {
		return api.Refuse(api.CollateralMalformed, "%s: the answer has more than %d bytes", what, r.limit)
	}
	if err != nil {
		return failed(err)
	}
	if r.chain == nil {
		return nil
	}
	for _, name := range r.headers {
		switch values := resp.Header.Values(name); len(values) {
		case 0:
			continue
		case 1:
			chain, err := url.QueryUnescape(values[0])
			if err != nil || len(chain) > maxChain {
				return api.Refuse(api.CollateralMalformed, "%s: header %s", what, name)
			}
			*r.chain = []byte(chain)
			return nil
		default:
			return api.Refuse(api.CollateralMalformed, "%s: header %s twice", what, name)
		}
	}
	return api.Refuse(api.CollateralMalformed, "%s: no issuer chain in the headers", what)
}

// binary returns a list's DER: caching services send its hexadecimal digits.
// DER never consists of such digits alone: its second byte is none.
func binary(body []byte) []byte {
	decoded, err := hex.AppendDecode(nil, bytes.TrimSpace(body))
	if err != nil {
		return body
	}
	return decoded
}
