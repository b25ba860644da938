package tdxlab

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Server answers as a provisioning certificate caching service does, and makes
// quotes.
//
//	GET /tdx/certification/v4/tcb?fmspc=F            TCB information
//	GET /tdx/certification/v4/qe/identity            identity of the quoting enclave
//	GET /sgx/certification/v4/pckcrl?ca=C            revoked platforms (hex, or encoding=der)
//	GET /sgx/certification/v4/rootcacrl              revoked authorities (hex)
//	GET /attest/{128 hex digits}                     a quote with this report data
//	GET /rtmr3                                       RTMR3 (96 hex digits)
//	POST /rtmr3/{96 hex digits}                      extends it: SHA-384(RTMR3 | digits)
//	DELETE /rtmr3                                    the TD starts anew: zeros
//
// The last four are about one TD; /td/{name} before them names another, up to
// 64, each with a register of its own. Quotes carry the register of their TD.
type Server struct {
	Lab        *Lab
	Now        func() time.Time    // time.Now when nil
	Collateral []func(*Collateral) // what is changed in what Intel says
	Quote      []func(*Quote)      // and in the quotes
	ReadOnly   bool                // RTMR3 cannot be extended: there is no /rtmr3

	mu    sync.Mutex
	rtmr3 map[string][48]byte // by the TD's name
}

// Handler serves the lab as it is.
func (l *Lab) Handler() http.Handler { return (&Server{Lab: l}).Handler() }

// Handler returns the server's handler. It may be used by many at once.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /tdx/certification/v4/tcb", s.tcb)
	mux.HandleFunc("GET /tdx/certification/v4/qe/identity", s.qe)
	mux.HandleFunc("GET /sgx/certification/v4/pckcrl", s.pckCRL)
	mux.HandleFunc("GET /sgx/certification/v4/rootcacrl", s.rootCRL)
	for _, td := range []string{"", "/td/{td}"} {
		mux.HandleFunc("GET "+td+"/attest/{report}", s.attest)
		if !s.ReadOnly {
			mux.HandleFunc("GET "+td+"/rtmr3", s.register)
			mux.HandleFunc("POST "+td+"/rtmr3/{digest}", s.extend)
			mux.HandleFunc("DELETE "+td+"/rtmr3", s.restart)
		}
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusNotFound, "no such path")
	})
	return mux
}

func (s *Server) documents() *Documents {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	return s.Lab.Collateral(now(), s.Collateral...)
}

func fail(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
}

func answer(w http.ResponseWriter, kind, header string, chain, body []byte) {
	w.Header().Set("Content-Type", kind)
	if header != "" {
		w.Header().Set(header, strings.ReplaceAll(url.QueryEscape(string(chain)), "+", "%20"))
	}
	_, _ = w.Write(body)
}

func (s *Server) tcb(w http.ResponseWriter, r *http.Request) {
	fmspc := r.URL.Query().Get("fmspc")
	if !strings.EqualFold(fmspc, s.Lab.FMSPC()) {
		fail(w, http.StatusNotFound, fmt.Sprintf("no TCB information for %.16q", fmspc))
		return
	}
	d := s.documents()
	answer(w, "application/json", "TCB-Info-Issuer-Chain", d.TCBInfoChain, d.TCBInfo)
}

func (s *Server) qe(w http.ResponseWriter, _ *http.Request) {
	d := s.documents()
	answer(w, "application/json", "SGX-Enclave-Identity-Issuer-Chain", d.QEIdentityChain, d.QEIdentity)
}

func (s *Server) pckCRL(w http.ResponseWriter, r *http.Request) {
	if ca := r.URL.Query().Get("ca"); ca != s.Lab.platform.CA {
		fail(w, http.StatusNotFound, fmt.Sprintf("no list of %.16q", ca))
		return
	}
	d := s.documents()
	body, kind := d.PCKCRL, "application/pkix-crl"
	if r.URL.Query().Get("encoding") != "der" {
		body, kind = hex.AppendEncode(nil, body), "text/plain"
	}
	answer(w, kind, "SGX-PCK-CRL-Issuer-Chain", d.PCKCRLChain, body)
}

func (s *Server) rootCRL(w http.ResponseWriter, _ *http.Request) {
	answer(w, "text/plain", "", nil, hex.AppendEncode(nil, s.documents().RootCRL))
}

func (s *Server) attest(w http.ResponseWriter, r *http.Request) {
	report, err := hex.DecodeString(r.PathValue("report"))
	if err != nil || len(report) != 64 {
		fail(w, http.StatusBadRequest, "report data are 128 hexadecimal digits")
		return
	}
	register := s.at(r)
	edits := append([]func(*Quote){func(q *Quote) { q.RTMR[3] = register }}, s.Quote...)
	answer(w, "application/octet-stream", "", nil, s.Lab.Quote([64]byte(report), edits...))
}
