package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/client"
	"github.com/telemark-otel/telemark/internal/identity/identitytest"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// vms are the instances of the scripts that run, by their working directory.
var vms sync.Map

// cmdInstance is "instance [legacy|vault]": an instance that forges its quotes
// runs until the end of the script. $URL is its https address, $PLAIN its http
// one, $ELSEWHERE one with somebody in between; root.pem, collateral and tdx.yaml
// are there, and $TRUST names them.
func cmdInstance(ts *testscript.TestScript, _ bool, args []string) {
	lab := tdxlab.New("script")
	vm, err := identitytest.New(lab)
	ts.Check(err)
	for _, a := range args {
		switch a {
		case "legacy":
			vm.Legacy, vm.Source = true, "legacy"
		case "vault":
			vm.Source = "vault"
		default:
			ts.Fatalf("instance %s?", a)
		}
	}
	attested := httptest.NewUnstartedServer(vm.Handler())
	attested.TLS = vm.TLSConfig()
	attested.StartTLS()
	plain := httptest.NewServer(vm.Handler())
	between := httptest.NewTLSServer(vm.Handler())
	ts.Defer(func() { attested.Close(); plain.Close(); between.Close(); vms.Delete(ts.Getenv("WORK")) })
	vms.Store(ts.Getenv("WORK"), vm)
	ts.Setenv("URL", attested.URL)
	ts.Setenv("PLAIN", plain.URL)
	ts.Setenv("ELSEWHERE", between.URL)
	ts.Check(os.WriteFile(ts.MkAbs("root.pem"), lab.RootPEM(), 0o600))
	ts.Check(lab.WriteBundle(ts.MkAbs("collateral"), time.Now()))
	ts.Check(os.WriteFile(ts.MkAbs("tdx.yaml"), []byte("policies:\n  - name: lab\n    tcb:\n      accept: [{status: UpToDate}]\n      advisories: [\"*\"]\n"), 0o600))
	ts.Setenv("TELEMARK_INSTANCES", ts.MkAbs("instances"))
}

// cmdVM is "vm reboot", "vm rollback COUNTER", "vm pending", "vm lie WHAT" and
// "vm steps N", for the instance of the script.
func cmdVM(ts *testscript.TestScript, neg bool, args []string) {
	found, ok := vms.Load(ts.Getenv("WORK"))
	if !ok || neg || len(args) == 0 {
		ts.Fatalf("usage: vm reboot|rollback|pending|lie|steps, after instance")
	}
	vm := found.(*identitytest.Instance)
	switch args[0] {
	case "reboot":
		ts.Check(vm.Reboot())
	case "rollback":
		n, err := strconv.ParseUint(args[1], 10, 64)
		ts.Check(err)
		vm.Rollback(n)
	case "pending":
		vm.RegistryDown()
	case "lie":
		l, ok := lies[args[1]]
		if !ok {
			ts.Fatalf("no lie %s", args[1])
		}
		vm.Lie(l)
	case "steps":
		if got := len(vm.Steps()); strconv.Itoa(got) != args[1] {
			ts.Fatalf("%d steps: %v", got, vm.Steps())
		}
	default:
		ts.Fatalf("vm %s?", args[0])
	}
}

var lies = map[string]identitytest.Lies{
	"no":     {},
	"nonce":  {Nonce: func(n []byte) []byte { return make([]byte, len(n)) }},
	"forged": {Quote: []func(*tdxlab.Quote){func(q *tdxlab.Quote) { q.BadSignature = true }}},
	"image":  {Quote: []func(*tdxlab.Quote){func(q *tdxlab.Quote) { q.MRTD[0] ^= 1 }}},
	"lost":   {Lost: true},
	"rolled": {Statement: func(s *statement.Statement) {
		*s = statement.Statement{Version: 1, Instance: s.Instance, Origin: s.Origin, Link: &statement.Link{At: s.Link.At, Counter: s.Link.Counter, Signature: s.Link.Signature}, Boot: s.Boot, State: statement.RolledBack, Counter: 99, TLSKey: s.TLSKey}
	}},
	// After a reboot, another identity than the one whose volume it is.
	"other": {Statement: func(s *statement.Statement) {
		if s.State != statement.Locked {
			*s = statement.Statement{Version: 1, Instance: s.Instance, Origin: s.Instance, Boot: s.Boot, State: statement.Fresh, Counter: 1, TLSKey: s.TLSKey}
		}
	}},
	// After a step, something that its quote does not cover.
	"later": {Statement: func(s *statement.Statement) {
		if s.State != statement.Fresh {
			s.Counter = 0
		}
	}},
	// Success for nothing.
	"success": {Serve: func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		_, _ = w.Write([]byte(`{"status":"success","owner_token":"5a"}`))
		return true
	}},
	"page": {Serve: func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "gateway", http.StatusBadGateway)
		return true
	}},
	"error": {Serve: func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = w.Write([]byte(`{"error":"rate_limited: too many","reason":"rate_limited","help":"Wait a little.","retry_after":7}`))
		return true
	}},
	"token": {Serve: func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != api.PathRegisterOperator {
			return false
		}
		_, _ = w.Write([]byte(`{"status":"success","owner_token":"not a token"}`))
		return true
	}},
}

func TestEveryDoubtSaysWhatToDo(t *testing.T) {
	for _, r := range []client.Reason{
		client.AnswerMalformed, client.InstanceMismatch, client.QuoteRefused, client.QuoteMismatch, client.StatementInvalid,
		client.TLSKeyMismatch, client.StateRollback, client.MeasurementsChanged, client.StorageRefused, client.ChannelOpen, client.SignerInvalid,
	} {
		require.NotEmpty(t, doubtHelp[r], r)
	}
}

func TestShellReadsACommandLineAsItWasMade(t *testing.T) {
	require.Equal(t, `ssh -o 'a b' 'it'\''s' '$HOME' ''`, quoted([]string{"ssh", "-o", "a b", "it's", "$HOME", ""}))
	require.True(t, filepath.IsAbs(absolute("x")))
}
