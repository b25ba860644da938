package request

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

func keyOf(n byte) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte{n})
	return ed25519.NewKeyFromSeed(seed[:])
}

func publicOf(n byte) ed25519.PublicKey { return keyOf(n).Public().(ed25519.PublicKey) }

const instance, owner, stranger = 1, 2, 3

type memory struct {
	accepted map[[32]byte]bool
	counter  uint64
}

func (m *memory) Accepted(b [32]byte) bool { return m.accepted[b] }
func (m *memory) Counter() uint64          { return m.counter }

func verifier() (*Verifier, *memory) {
	m := &memory{accepted: map[[32]byte]bool{}, counter: 7}
	return &Verifier{Instance: publicOf(instance), Owner: publicOf(owner), Memory: m}, m
}

func configureBody(more string) string {
	return fmt.Sprintf(`{"instance_pubkey":"%x","image":"app:1","persist_dirs":["/data"],"port":8080%s}`, []byte(publicOf(instance)), more)
}

func exposeBody(more string) string {
	return fmt.Sprintf(`{"instance_pubkey":"%x","image":"app:1"%s}`, []byte(publicOf(instance)), more)
}

func signed(by byte, body string) *Signed {
	return &Signed{Method: "POST", Path: "/workload/any", Body: []byte(body), Signature: hex.EncodeToString(ed25519.Sign(keyOf(by), []byte(body)))}
}

func signedV1(by byte, path string, counter uint64, body string) *Signed {
	message := Message("POST", path, publicOf(instance), counter, []byte(body))
	return &Signed{
		Method: "POST", Path: path, Counter: fmt.Sprint(counter), Body: []byte(body),
		Signature: hex.EncodeToString(ed25519.Sign(keyOf(by), message)),
	}
}

func refused(t *testing.T, err error, r reason.Reason) {
	t.Helper()
	require.Equal(t, r, reason.Of(err), "%v", err)
}

func TestSignedRequestIsAccepted(t *testing.T) {
	v, _ := verifier()
	for _, body := range []string{configureBody(""), configureBody(`,"registry_credentials":{"username":"u","password":"p"}`)} {
		c, auth, err := v.Configure(signed(owner, body), false)
		require.NoError(t, err)
		require.Equal(t, Auth{Body: sha256.Sum256([]byte(body))}, auth)
		require.Equal(t, "app:1", *c.Image)
		require.Equal(t, []string{"/data"}, c.PersistDirs)
		require.EqualValues(t, 8080, *c.Port)
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", c.Registry, c.Registry, c.Registry), `"p"`)
	}
	_, auth, err := v.Expose(signedV1(owner, "/v1/workload/expose", 7, exposeBody("")), true)
	require.NoError(t, err)
	require.True(t, auth.V1)
	require.EqualValues(t, 7, auth.Counter)
}

func TestSignedConfigureIsNotTakenForExpose(t *testing.T) {
	v, _ := verifier()
	_, _, err := v.Expose(signed(owner, configureBody("")), false)
	refused(t, err, reason.BadRequest)
	_, _, err = v.Configure(signed(owner, exposeBody("")), false)
	refused(t, err, reason.BadRequest)

	for _, path := range []string{"/v1/workload/configure", "/v1/storage/unlock", "/v1/workload/expose/", "/workload/expose"} {
		r := signedV1(owner, path, 7, exposeBody(""))
		r.Path = "/v1/workload/expose"
		_, _, err = v.Expose(r, true)
		refused(t, err, reason.SignatureInvalid)
	}
	r := signedV1(owner, "/v1/workload/expose", 7, exposeBody(""))
	r.Method = "PUT"
	_, _, err = v.Expose(r, true)
	refused(t, err, reason.SignatureInvalid)
}

func TestOneFormIsNotTakenForTheOther(t *testing.T) {
	v, _ := verifier()
	older := signed(owner, exposeBody(""))
	older.Counter, older.Path = "7", "/v1/workload/expose"
	_, _, err := v.Expose(older, true)
	refused(t, err, reason.SignatureInvalid)
	newer := signedV1(owner, "/v1/workload/expose", 7, exposeBody(""))
	_, _, err = v.Expose(newer, false)
	refused(t, err, reason.SignatureInvalid)
	// The signed message itself, sent as a body, is no JSON.
	newer.Body = Message("POST", newer.Path, publicOf(instance), 7, newer.Body)
	_, _, err = v.Expose(newer, false)
	refused(t, err, reason.BadRequest)
	// A registration's signature, over the raw instance key, likewise.
	_, _, err = v.Expose(signed(owner, string(publicOf(instance))), false)
	refused(t, err, reason.BadRequest)

	v.RequireV1 = true
	_, _, err = v.Expose(signed(owner, exposeBody("")), false)
	refused(t, err, reason.V1Required)
}

func TestBodyThatWasWrittenAgainIsRefused(t *testing.T) {
	v, _ := verifier()
	r := signed(owner, configureBody(""))
	for _, changed := range []string{configureBody(" "), " " + configureBody(""), strings.ReplaceAll(configureBody(""), ":", ": "), strings.Replace(configureBody(""), "8080", "8081", 1)} {
		r.Body = []byte(changed)
		_, _, err := v.Configure(r, false)
		refused(t, err, reason.SignatureInvalid)
	}
}

func TestUnsignedBodyIsNotRead(t *testing.T) {
	v, _ := verifier()
	for _, body := range []string{"{", exposeBody(`,"extra":1`), strings.Repeat("[", 1<<20)} {
		_, _, err := v.Expose(signed(stranger, body), false)
		refused(t, err, reason.SignatureInvalid)
		r := signed(owner, body)
		r.Signature = ""
		_, _, err = v.Expose(r, false)
		refused(t, err, reason.SignatureMissing)
		_, _, err = v.Expose(signed(owner, body), false)
		refused(t, err, reason.BadRequest)
	}
	v.Owner = nil
	_, _, err := v.Expose(signed(owner, exposeBody("")), false)
	refused(t, err, reason.OwnerMissing)
}

func TestWhatALenientReaderTakesIsRefused(t *testing.T) {
	v, _ := verifier()
	whole := configureBody("")
	for name, body := range map[string]string{
		"another case":          strings.Replace(whole, `"image"`, `"IMAGE"`, 1),
		"case variant beside":   configureBody(`,"Image":"app:2"`),
		"twice":                 configureBody(`,"image":"app:2"`),
		"unknown":               configureBody(`,"privileged":true`),
		"trailing":              whole + "{}",
		"no image":              strings.Replace(whole, `"image":"app:1",`, "", 1),
		"no dirs":               strings.Replace(whole, `"persist_dirs":["/data"],`, "", 1),
		"null dirs":             strings.Replace(whole, `["/data"]`, "null", 1),
		"no port":               strings.Replace(whole, `,"port":8080`, "", 1),
		"null image":            strings.Replace(whole, `"app:1"`, "null", 1),
		"no instance":           `{"image":"app:1","persist_dirs":[],"port":1}`,
		"upper-case key":        strings.Replace(whole, fmt.Sprintf("%x", []byte(publicOf(instance))), fmt.Sprintf("%X", []byte(publicOf(instance))), 1),
		"key as array":          strings.Replace(whole, fmt.Sprintf(`"%x"`, []byte(publicOf(instance))), "[1,2,3]", 1),
		"port as string":        strings.Replace(whole, "8080", `"8080"`, 1),
		"port as fraction":      strings.Replace(whole, "8080", "80.5", 1),
		"unknown in credential": configureBody(`,"registry_credentials":{"username":"u","password":"p","token":"t"}`),
		"array":                 "[" + whole + "]",
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := v.Configure(signed(owner, body), false)
			refused(t, err, reason.BadRequest)
			require.Less(t, len(err.Error()), 1000)
		})
	}
}

func TestRequestForAnotherInstanceIsRefused(t *testing.T) {
	v, _ := verifier()
	body := strings.Replace(exposeBody(""), fmt.Sprintf("%x", []byte(publicOf(instance))), fmt.Sprintf("%x", []byte(publicOf(stranger))), 1)
	_, _, err := v.Expose(signed(owner, body), false)
	refused(t, err, reason.WrongInstance)
	_, _, err = v.Expose(signed(owner, `{"instance_pubkey":"","image":"app:1"}`), false)
	refused(t, err, reason.WrongInstance)
	r := signedV1(owner, "/v1/workload/expose", 7, exposeBody(""))
	v.Instance = publicOf(stranger)
	_, _, err = v.Expose(r, true)
	refused(t, err, reason.SignatureInvalid)
}

func TestRequestSentTwiceIsRefused(t *testing.T) {
	v, m := verifier()
	r := signed(owner, exposeBody(""))
	_, auth, err := v.Expose(r, false)
	require.NoError(t, err)
	m.accepted[auth.Body] = true
	_, _, err = v.Expose(r, false)
	refused(t, err, reason.Replayed)

	r = signedV1(owner, "/v1/workload/expose", 7, exposeBody(""))
	_, _, err = v.Expose(r, true)
	require.NoError(t, err)
	m.counter++
	_, _, err = v.Expose(r, true)
	refused(t, err, reason.CounterMismatch)
	r.Counter = "8"
	_, _, err = v.Expose(r, true)
	refused(t, err, reason.SignatureInvalid)
	for _, spelling := range []string{"", "07", "+7", "-1", "7.0", "0x7", " 7", "18446744073709551616", "7\n"} {
		r.Counter = spelling
		_, _, err = v.Expose(r, true)
		refused(t, err, reason.CounterMalformed)
	}
}

func TestTraversalInPersistedDirectoriesIsRefused(t *testing.T) {
	v, _ := verifier()
	for _, dirs := range []string{
		`["data"]`, `[""]`, `["/"]`, `["/data/"]`, `["/data/../etc"]`, `["/../data"]`, `["/.."]`, `["//data"]`, `["/data/."]`,
		`["/proc"]`, `["/proc/sys"]`, `["/sys/x"]`, `["/dev"]`, `["/run/podman"]`, `["/a\u0000b"]`, `["/a,b"]`, `["/a:b"]`,
		`["/a","/a"]`, `["/a","/a/b"]`, `["/a/b","/a"]`, `["/` + strings.Repeat("x", 256) + `"]`,
		`["/d` + strings.Join(strings.Split(strings.Repeat("x", 33), ""), `","/d`) + `"]`,
	} {
		_, _, err := v.Configure(signed(owner, strings.Replace(configureBody(""), `["/data"]`, dirs, 1)), false)
		refused(t, err, reason.PersistDirsInvalid)
	}
	for _, dirs := range []string{`[]`, `["/a","/ab","/b/c"]`, `["/running","/process"]`, `["/..."]`} {
		_, _, err := v.Configure(signed(owner, strings.Replace(configureBody(""), `["/data"]`, dirs, 1)), false)
		require.NoError(t, err, dirs)
	}
	for _, port := range []string{"0", "-1", "65536", "9007199254740993"} {
		_, _, err := v.Configure(signed(owner, strings.Replace(configureBody(""), "8080", port, 1)), false)
		refused(t, err, reason.PortInvalid)
	}
	for _, image := range []string{``, `a b`, `a\u000ab`, `ä`, strings.Repeat("x", 513)} {
		_, _, err := v.Configure(signed(owner, strings.Replace(configureBody(""), "app:1", image, 1)), false)
		refused(t, err, reason.ImageInvalid)
	}
}

func TestUnlockNeedsTheOwnerTwice(t *testing.T) {
	v, _ := verifier()
	body := func(by byte, more string) string {
		return fmt.Sprintf(`{"instance_pubkey":"%x","signature":"%x","sealed_key":"00","last_counter":5%s}`,
			[]byte(publicOf(instance)), ed25519.Sign(keyOf(by), publicOf(instance)), more)
	}
	const path = "/v1/storage/unlock"
	u, _, err := v.Unlock(signedV1(owner, path, 7, body(owner, "")))
	require.NoError(t, err)
	require.EqualValues(t, 5, *u.LastCounter)
	_, _, err = v.Unlock(signedV1(owner, path, 7, body(stranger, "")))
	refused(t, err, reason.SignatureInvalid)
	_, _, err = v.Unlock(signedV1(stranger, path, 7, body(owner, "")))
	refused(t, err, reason.SignatureInvalid)
	_, _, err = v.Unlock(signedV1(owner, path, 7, body(owner, `,"port":1`)))
	refused(t, err, reason.BadRequest)
	for _, member := range []string{`"sealed_key":"00",`, `,"last_counter":5`} {
		_, _, err = v.Unlock(signedV1(owner, path, 7, strings.Replace(body(owner, ""), member, "", 1)))
		refused(t, err, reason.BadRequest)
	}
}

// The bytes of the /v1/ form do not change: clients have them too.
func TestMessageIsTheOneThatIsDocumented(t *testing.T) {
	key := make([]byte, 32)
	for i := range key {
		key[i] = 0x11
	}
	want := "74656c656d61726b2d726571756573742d763100" + // telemark-request-v1
		"00000004" + "504f5354" +
		"00000013" + hex.EncodeToString([]byte("/v1/workload/expose")) +
		"00000020" + strings.Repeat("11", 32) +
		"00000008" + "0000000000000007" +
		"00000020" + "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
	require.Equal(t, want, hex.EncodeToString(Message("POST", "/v1/workload/expose", key, 7, []byte("{}"))))
}

// FuzzNoBodyIsOfTwoKinds reads any bytes as every kind of body: at most one takes
// them, and what is taken reads the same to the standard library.
func FuzzNoBodyIsOfTwoKinds(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) {
		taken := 0
		for _, err := range []error{
			errorOf(read(raw, checkConfigure)), errorOf(read(raw, checkExpose)), errorOf(read(raw, checkUnlock)),
			errorOf(read(raw, checkStorageRequest)),
		} {
			if err == nil {
				taken++
			} else {
				require.NotEqual(t, reason.Internal, reason.Of(err))
			}
		}
		for _, err := range []error{errorOf(read(raw, checkOperator)), errorOf(read(raw, checkOwner)), errorOf(read(raw, checkRenewal))} {
			if err == nil {
				require.Zero(t, taken, "a registration is no signed request")
			}
		}
		require.LessOrEqual(t, taken, 1)
		if taken == 1 {
			require.True(t, json.Valid(raw))
		}
	})
}

func errorOf[T any](_ *T, err error) error { return err }

func TestCorpusIsThere(t *testing.T) {
	seeds, err := os.ReadDir("testdata/fuzz/FuzzNoBodyIsOfTwoKinds")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(seeds), 5)
}
