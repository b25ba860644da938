package identity_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
)

// TestOneOfManyOwnersWins: the token is raced for, by its owner and by others who
// came to know it.
func TestOneOfManyOwnersWins(t *testing.T) {
	t.Parallel()
	const n = 100
	v := newVM(t, flags("--max-calls", "200", "--storage-key", "legacy"))
	token, instance := v.registerOperator(), v.instance()
	owners, bodies := make([]*person, n), make([][]byte, n)
	for i := range n {
		owners[i] = v.owner
		if i%2 == 1 {
			owners[i] = newPerson(t, fmt.Sprint(i))
		}
		bodies[i] = v.encode(api.Owner{Pubkey: owners[i].public(), Signature: owners[i].sign(instance)})
	}
	var winner *person
	counts := parallel(n, func(i int) string {
		a, err := v.try(http.MethodPost, "/owner/register", bodies[i], "x-token", token)
		if err != nil {
			return err.Error()
		}
		if a.Code == http.StatusOK {
			winner = owners[i]
		}
		return fmt.Sprint(a.Code, " ", a.Reason)
	})
	t.Logf("answers: %v", counts)
	require.Equal(t, 1, counts["200 "])
	for said := range counts {
		require.Contains(t, []string{"200 ", "409 token_used", "409 owner_registered", "503 step_in_flight"}, said)
	}
	require.Equal(t, "owner_registered", v.state().State)
	require.Equal(t, winner.public(), v.state().Owner)
	v.accepted(v.second(winner, api.PathConfigure, v.configureBody(app)))
}

// TestOwnerWhoSendsTwiceIsRegisteredOnce: one request, many times at once.
func TestOwnerWhoSendsTwiceIsRegisteredOnce(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	token := v.registerOperator()
	body := v.encode(v.ownerBody())
	counts := parallel(20, func(int) string {
		a, err := v.try(http.MethodPost, "/owner/register", body, "x-token", token)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(a.Code)
	})
	require.Equal(t, 1, counts["200"], "%v", counts)
	require.Equal(t, "mounted", v.state().Storage.Volume)
}

func TestTokenWorksForWhoHasIt(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.refused("operator_missing", v.send(http.MethodPost, "/owner/register", v.encode(v.ownerBody()), "x-token", strings.Repeat("0", 64)))
	token := v.registerOperator()
	v.refused("operator_registered", v.send(http.MethodPost, "/operator/register", v.encode(v.operatorBody())))
	body := v.encode(v.ownerBody())
	v.refused("token_missing", v.send(http.MethodPost, "/owner/register", body))
	for _, wrong := range []string{strings.Repeat("0", len(token)), token[:len(token)-1], token + "0", strings.ToUpper(token) + "x", "x"} {
		v.refused("token_invalid", v.send(http.MethodPost, "/owner/register", body, "x-token", wrong))
	}
	v.registerOwner(token)
	a := v.send(http.MethodPost, "/owner/register", v.encode(&api.Owner{Pubkey: v.operator.public(), Signature: v.operator.sign(v.instance()), SealedKey: make([]byte, 64)}), "x-token", token)
	require.Contains(t, []string{"token_used", "owner_registered"}, a.Reason, "%s", a)
}

func TestOwnerOtherThanTheNamedOneIsRefused(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	body := v.operatorBody()
	body.OwnerPubkey = v.owner.public()
	token := v.accepted(v.second(v.operator, api.PathRegisterOperator, body)).OwnerToken
	thief := newPerson(t, "thief")
	a := v.send(http.MethodPost, api.PathStorageRequest, v.encode(api.StorageRequest{Owner: thief.public(), Nonce: make([]byte, 32)}))
	v.refused("other_owner", a)
	v.refused("owner_not_expected", v.send(http.MethodPost, "/owner/register", v.encode(&api.Owner{
		Pubkey: thief.public(), Signature: thief.sign(v.instance()), SealedKey: make([]byte, 64),
	}), "x-token", token))
	v.registerOwner(token)
}

// hexOf reads hexadecimal digits of the test.
func hexOf(t *testing.T, s string) api.Hex {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func TestKeysThatProveNothingAreRefused(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	anything := v.operator.sign(v.instance())
	for want, keys := range map[string][]string{
		"pubkey_low_order": {
			"0100000000000000000000000000000000000000000000000000000000000000",
			"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
			"0000000000000000000000000000000000000000000000000000000000000000",
			"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		},
		"pubkey_non_canonical": {
			"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
			"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
			"0100000000000000000000000000000000000000000000000000000000000080",
		},
		"pubkey_malformed": {"", "00", strings.Repeat("00", 33), "0200000000000000000000000000000000000000000000000000000000000000"},
	} {
		for _, key := range keys {
			a := v.send(http.MethodPost, "/operator/register", v.encode(&api.Operator{Pubkey: hexOf(t, key), Signature: anything}))
			v.refused(want, a)
		}
	}
	// S and L+S: one signature, written twice.
	raised := append(api.Hex(nil), anything...)
	order := hexOf(t, "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
	carry := 0
	for i := range order {
		sum := int(raised[32+i]) + int(order[i]) + carry
		raised[32+i], carry = byte(sum), sum>>8
	}
	v.refused("signature_non_canonical", v.send(http.MethodPost, "/operator/register", v.encode(&api.Operator{Pubkey: v.operator.public(), Signature: raised})))
	v.refused("signature_invalid", v.send(http.MethodPost, "/operator/register", v.encode(&api.Operator{Pubkey: v.owner.public(), Signature: anything})))
	require.Equal(t, "fresh", v.state().State)
}

func TestCallsOutOfOrderAreRefused(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.refused("owner_missing", v.older(v.owner, "/workload/configure", v.configureBody(app)))
	v.refused("owner_missing", v.second(v.owner, api.PathExpose, v.exposeBody(app)))
	token := v.registerOperator()
	v.refused("owner_missing", v.second(v.owner, api.PathConfigure, v.configureBody(app)))
	v.registerOwner(token)
	v.refused("workload_missing", v.second(v.owner, api.PathExpose, v.exposeBody(app)))
	v.refused("workload_missing", v.older(v.owner, "/workload/expose", v.exposeBody(app)))
	v.refused("state_linked", v.second(v.owner, api.PathUnlock, &api.Unlock{InstancePubkey: v.instance(), Signature: v.owner.sign(v.instance()), SealedKey: make([]byte, 64), LastCounter: new(uint64)}))
}

// TestBadRequestsOfTheOwnerAreRefused: signed by the right key, each with its own
// reason, and nothing changes.
func TestBadRequestsOfTheOwnerAreRefused(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.registerOwner(v.registerOperator())
	good := v.encode(v.configureBody(app, "/data"))
	edit := func(change func(map[string]any)) []byte {
		m := map[string]any{}
		require.NoError(t, json.Unmarshal(good, &m))
		change(m)
		return v.encode(m)
	}
	set := func(member string, value any) []byte { return edit(func(m map[string]any) { m[member] = value }) }
	for _, c := range []struct {
		name, want string
		body       []byte
	}{
		{"another instance", "wrong_instance", set("instance_pubkey", v.owner.public().String())},
		{"member in capitals", "bad_request", bytes.Replace(good, []byte(`"image"`), []byte(`"IMAGE"`), 1)},
		{"member twice", "bad_request", bytes.Replace(good, []byte(`{`), []byte(`{"port":1,`), 1)},
		{"member unknown", "bad_request", set("sudo", true)},
		{"member missing", "bad_request", edit(func(m map[string]any) { delete(m, "persist_dirs") })},
		{"member null", "bad_request", set("persist_dirs", nil)},
		{"another type", "bad_request", set("port", "8080")},
		{"trailing", "bad_request", append(bytes.Clone(good), '{', '}')},
		{"deep", "bad_request", []byte(strings.Repeat("[", 40_000))},
		{"port 0", "port_invalid", set("port", 0)},
		{"port too large", "port_invalid", set("port", 65536)},
		{"port below zero", "port_invalid", set("port", -1)},
		{"no image", "image_invalid", set("image", "")},
		{"image of many lines", "image_invalid", set("image", "a\nb")},
		{"image that is no name", "image_invalid", set("image", "docker-archive:/etc/passwd")},
		{"image that is not here", "image_not_found", set("image", "localhost/none:1")},
		{"climbing", "persist_dirs_invalid", set("persist_dirs", []string{"/data/../../etc"})},
		{"relative", "persist_dirs_invalid", set("persist_dirs", []string{"data"})},
		{"the root", "persist_dirs_invalid", set("persist_dirs", []string{"/"})},
		{"the kernel's", "persist_dirs_invalid", set("persist_dirs", []string{"/proc/sys"})},
		{"options for the engine", "persist_dirs_invalid", set("persist_dirs", []string{"/data:rw,exec"})},
		{"overlapping", "persist_dirs_invalid", set("persist_dirs", []string{"/data", "/data/x"})},
	} {
		v.refused(c.want, v.send(http.MethodPost, "/workload/configure", c.body, "x-signature", v.owner.sign(c.body).String()))
		require.Equal(t, "owner_registered", v.state().State, c.name)
	}
	v.refused("signature_missing", v.send(http.MethodPost, "/workload/configure", good))
	v.refused("signature_malformed", v.send(http.MethodPost, "/workload/configure", good, "x-signature", strings.ToUpper(v.owner.sign(good).String())))
	v.refused("signature_invalid", v.send(http.MethodPost, "/workload/configure", good, "x-signature", v.operator.sign(good).String()))
	// Read and written again: the same to a reader, other bytes.
	again := edit(func(map[string]any) {})
	require.NotEqual(t, good, again)
	v.refused("signature_invalid", v.send(http.MethodPost, "/workload/configure", again, "x-signature", v.owner.sign(good).String()))
	v.refused("unsupported_media_type", v.send(http.MethodPost, "/workload/configure", good, "x-signature", v.owner.sign(good).String(), "Content-Type", "text/plain"))
	v.refused("not_found", v.send(http.MethodGet, "/workload", nil))
	v.refused("method_not_allowed", v.send(http.MethodGet, "/workload/configure", nil))
	v.accepted(v.send(http.MethodPost, "/workload/configure", good, "x-signature", v.owner.sign(good).String()))

	v.refused("image_mismatch", v.older(v.owner, "/workload/expose", v.exposeBody(app2)))
	require.Equal(t, api.SSHOpen, v.state().SSH.State, "the door is still open")
}

// TestTagThatMovedIsNotFollowed: expose runs what configure resolved.
func TestTagThatMovedIsNotFollowed(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.configured()
	digest := v.state().Workload.Digest
	v.Podman.Import(t, app, "moved meanwhile")
	v.expose()
	v.reachable(words)
	require.Equal(t, digest, v.state().Container.ImageDigest)
}

// TestPortThatIsTakenLeavesTheDoorOpen: what cannot be published is not exposed.
func TestPortThatIsTakenLeavesTheDoorOpen(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.configured()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprint("127.0.0.1:", v.Ports.Publish))
	require.NoError(t, err)
	v.refused("port_taken", v.second(v.owner, api.PathExpose, v.exposeBody(app)))
	require.Equal(t, "workload_configured", v.state().State)
	require.Equal(t, result{"hello\n", "", 0}, v.ssh("echo hello"))
	require.NoError(t, l.Close())
	v.expose()
	v.reachable(words)
}

// endless is a body of so many bytes that costs nothing to have.
type endless struct{ left atomic.Int64 }

func (e *endless) Read(b []byte) (int, error) {
	left := e.left.Load()
	if left <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(b)), left)
	for i := range n {
		b[i] = ' '
	}
	e.left.Add(-n) // the client may go on reading after its request has ended
	return int(n), nil
}

func TestBodyOfAGigabyteIsRefused(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	for _, announced := range []bool{true, false} {
		body := new(endless)
		body.left.Store(1 << 30)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, v.URL+"/workload/configure", io.NopCloser(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("x-signature", strings.Repeat("00", 64))
		if announced {
			req.ContentLength = 1 << 30
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil { // it may hang up on us while we talk
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
			require.Contains(t, string(b), "body_too_large")
		}
		require.Greater(t, body.left.Load(), int64(900<<20), "it was not read")
	}
	require.Equal(t, "fresh", v.state().State)
}

// TestSlowBodiesHoldNobodyUp: many clients that send a byte now and then, and one
// that does not.
func TestSlowBodiesHoldNobodyUp(t *testing.T) {
	t.Parallel()
	v := newVM(t, flags("--max-connections", "400"))
	const n = 60
	ended := make(chan string, n)
	for range n {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(v.URL, "http://"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "POST /workload/configure HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nx-signature: %s\r\nContent-Length: 1000\r\n\r\n{", strings.Repeat("00", 64))
		require.NoError(t, err)
		go func() {
			for range 60 {
				if _, err := conn.Write([]byte(" ")); err != nil {
					break
				}
				time.Sleep(500 * time.Millisecond)
			}
		}()
		go func() {
			_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
			line, _ := bufio.NewReader(conn).ReadString('\n')
			ended <- strings.TrimSpace(line)
		}()
	}
	began := time.Now()
	v.registerOperator()
	require.Less(t, time.Since(began), 10*time.Second)
	for range n {
		select {
		case line := <-ended:
			require.Contains(t, []string{"HTTP/1.1 408 Request Timeout", "HTTP/1.1 503 Service Unavailable", "HTTP/1.1 429 Too Many Requests"}, line)
		case <-time.After(40 * time.Second):
			require.Fail(t, "a slow body is still waited for")
		}
	}
}
