package server_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/api"
)

func TestReserialisedBodyIsNotTheSignedOne(t *testing.T) {
	r := newRig(t).owned()
	original := encode(t, r.configuration())
	signature := hex.EncodeToString(ed25519.Sign(r.owner, original))
	var again map[string]any
	require.NoError(t, json.Unmarshal(original, &again))
	indented, err := json.MarshalIndent(again, "", " ")
	require.NoError(t, err)
	refused(t, reason.SignatureInvalid, r.do(http.MethodPost, "/workload/configure", indented, header(api.HeaderSignature, signature)))
	refused(t, reason.SignatureInvalid, r.do(http.MethodPost, "/workload/configure", append(original, '\n'), header(api.HeaderSignature, signature)))
	ok[api.Done](t, r.do(http.MethodPost, "/workload/configure", original, header(api.HeaderSignature, signature)))
	refused(t, reason.Replayed, r.do(http.MethodPost, "/workload/configure", original, header(api.HeaderSignature, signature)))
}

func TestSignedRequestServesOnePurposeOnce(t *testing.T) {
	r := newRig(t).owned()
	body := r.configuration()
	counter := r.machine.Counter()
	refused(t, reason.SignatureMissing, r.do(http.MethodPost, "/workload/configure", body))
	refused(t, reason.SignatureMalformed, r.do(http.MethodPost, "/workload/configure", body, header(api.HeaderSignature, strings.Repeat("AB", 64))))
	refused(t, reason.SignatureInvalid, r.do(http.MethodPost, "/workload/configure", body, signed(r.operator)))
	refused(t, reason.BadRequest, r.do(http.MethodPost, "/workload/configure", body, func(req *http.Request) {
		signed(r.owner)(req)
		req.Header.Add(api.HeaderSignature, req.Header.Get(api.HeaderSignature))
	}))

	// A configure is no expose, whatever signature comes with it.
	refused(t, reason.BadRequest, r.do(http.MethodPost, "/workload/expose", body, signed(r.owner)))
	refused(t, reason.BadRequest, r.do(http.MethodPost, "/workload/configure", r.exposure(), signed(r.owner)))

	// The forms are not each other's, nor one path another's.
	refused(t, reason.SignatureInvalid, r.do(http.MethodPost, "/workload/configure", body, r.signedFor(r.owner, counter)))
	refused(t, reason.SignatureInvalid, r.do(http.MethodPost, api.PathConfigure, body, signed(r.owner), header(api.HeaderCounter, fmt.Sprint(counter))))
	other := api.Message(http.MethodPost, api.PathExpose, r.machine.Instance(), counter, encode(t, body))
	refused(t, reason.SignatureInvalid, r.do(http.MethodPost, api.PathConfigure, body,
		header(api.HeaderSignature, hex.EncodeToString(ed25519.Sign(r.owner, other))), header(api.HeaderCounter, fmt.Sprint(counter))))
	require.EqualValues(t, 2, r.control.calls.Load(), "nothing of this reached a step")

	ok[api.Done](t, r.do(http.MethodPost, api.PathConfigure, body, r.signedFor(r.owner, counter)))
	refused(t, reason.CounterMismatch, r.do(http.MethodPost, api.PathConfigure, body, r.signedFor(r.owner, counter)))
}

// Bodies that a lenient reader takes for a configure.
func TestCrookedBodiesAreRefused(t *testing.T) {
	r := newRig(t).owned()
	good := string(encode(t, r.configuration()))
	must := func(old, new string) string {
		require.Contains(t, good, old)
		return strings.Replace(good, old, new, 1)
	}
	for name, body := range map[string]string{
		"other case":       must(`"image"`, `"IMAGE"`),
		"other case, too":  must(`"image"`, `"Image":"evil:1","image"`),
		"member twice":     must(`"port":80`, `"port":80,"port":81`),
		"unknown member":   must(`"port":80`, `"port":80,"privileged":true`),
		"member missing":   must(`,"port":80`, ``),
		"null member":      must(`"port":80`, `"port":null`),
		"escaped twice":    must(`"port":80`, `"port":80,"p\u006frt":81`),
		"something behind": good + "{}",
		"array":            "[" + good + "]",
		"null":             "null",
		"nothing":          " ",
		"cut off":          good[:len(good)-1],
		"wrong type":       must(`"port":80`, `"port":"80"`),
		"fraction":         must(`"port":80`, `"port":80.5`),
		"exponent":         must(`"port":80`, `"port":8e1`),
		"byte order mark":  "\ufeff" + good,
		"deep":             must(`["/data"]`, strings.Repeat("[", 100)+strings.Repeat("]", 100)),
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, reason.BadRequest, r.do(http.MethodPost, "/workload/configure", body, signed(r.owner)))
		})
	}
	require.Equal(t, state.OwnerRegistered, r.machine.View().State)
}

func TestValuesOutOfBoundsAreRefused(t *testing.T) {
	r := newRig(t).owned()
	for name, c := range map[string]struct {
		member string
		value  any
		want   reason.Reason
	}{
		"port 0":             {"port", 0, reason.PortInvalid},
		"port too high":      {"port", 65536, reason.PortInvalid},
		"negative port":      {"port", -1, reason.PortInvalid},
		"other instance":     {"instance_pubkey", public(r.owner), reason.WrongInstance},
		"no instance":        {"instance_pubkey", "", reason.WrongInstance},
		"empty image":        {"image", "", reason.ImageInvalid},
		"image with a space": {"image", "a b", reason.ImageInvalid},
		"long image":         {"image", strings.Repeat("a", 513), reason.ImageInvalid},
		"traversal":          {"persist_dirs", []string{"/data/../../etc"}, reason.PersistDirsInvalid},
		"relative":           {"persist_dirs", []string{"data"}, reason.PersistDirsInvalid},
		"the root":           {"persist_dirs", []string{"/"}, reason.PersistDirsInvalid},
		"/proc":              {"persist_dirs", []string{"/proc/1"}, reason.PersistDirsInvalid},
		"one in the other":   {"persist_dirs", []string{"/a", "/a/b"}, reason.PersistDirsInvalid},
		"with a colon":       {"persist_dirs", []string{"/a:/b"}, reason.PersistDirsInvalid},
		"too many":           {"persist_dirs", strings.Split(strings.TrimSuffix(strings.Repeat("/a,", 40), ","), ","), reason.PersistDirsInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			body := r.configuration()
			body[c.member] = c.value
			refused(t, c.want, r.do(http.MethodPost, "/workload/configure", body, signed(r.owner)))
			refused(t, c.want, r.do(http.MethodPost, api.PathConfigure, body, r.signedFor(r.owner, r.machine.Counter())))
		})
	}
}

func TestOtherImageIsNotExposed(t *testing.T) {
	r := newRig(t).owned()
	ok[api.Done](t, r.do(http.MethodPost, "/workload/configure", r.configuration(), signed(r.owner)))
	body := r.exposure()
	body["image"] = "registry.example/app:2"
	refused(t, reason.ImageMismatch, r.do(http.MethodPost, "/workload/expose", body, signed(r.owner)))
	require.Equal(t, state.WorkloadConfigured, r.machine.View().State)
}

func TestCredentialsStandInNoLogAndNoAnswer(t *testing.T) {
	r := newRig(t).owned()
	body := r.configuration()
	body["registry_credentials"] = map[string]string{"username": "robot", "password": "hunter2"}
	body["port"] = 0
	got := r.do(http.MethodPost, "/workload/configure", body, signed(r.owner))
	refused(t, reason.PortInvalid, got)
	require.NotContains(t, string(got.body), "hunter2")
	body["port"] = 80
	ok[api.Done](t, r.do(http.MethodPost, "/workload/configure", body, signed(r.owner)))
	for _, entry := range r.logs.All() {
		require.NotContains(t, fmt.Sprint(entry.Message, entry.ContextMap()), "hunter2")
	}
}
