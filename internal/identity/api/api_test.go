package api_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
)

// The bytes of the second form do not change: services and tools have them.
func TestMessageIsTheOneThatIsDocumented(t *testing.T) {
	want := "74656c656d61726b2d726571756573742d763100" + // telemark-request-v1
		"00000004" + "504f5354" +
		"00000013" + hex.EncodeToString([]byte("/v1/workload/expose")) +
		"00000020" + strings.Repeat("11", 32) +
		"00000008" + "0000000000000007" +
		"00000020" + "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
	key := ed25519.PublicKey(bytes.Repeat([]byte{0x11}, 32))
	require.Equal(t, want, hex.EncodeToString(api.Message("POST", api.PathExpose, key, 7, []byte("{}"))))
}

// Nothing of one part can be moved into the next.
func TestMessagesOfDifferentRequestsDiffer(t *testing.T) {
	key, other := make([]byte, 32), bytes.Repeat([]byte{1}, 32)
	seen := map[string]bool{}
	for _, m := range [][]byte{
		api.Message("POST", "/a", key, 0, nil), api.Message("POS", "T/a", key, 0, nil), api.Message("POST", "/a", other, 0, nil),
		api.Message("POST", "/a", key, 1, nil), api.Message("POST", "/a", key, 0, []byte("x")), api.Message("POST", "/a/", key, 0, nil),
	} {
		require.False(t, seen[string(m)])
		seen[string(m)] = true
	}
}

func TestBytesHaveOneSpelling(t *testing.T) {
	var h api.Hex
	require.NoError(t, json.Unmarshal([]byte(`"00ff"`), &h))
	require.Equal(t, api.Hex{0, 0xff}, h)
	out, err := json.Marshal(h)
	require.NoError(t, err)
	require.Equal(t, `"00ff"`, string(out))
	require.Equal(t, "00ff", h.String())
	for _, bad := range []string{`"00FF"`, `"0"`, `"0x00"`, `null`, `[0]`, `7`, `" 00"`, `"` + strings.Repeat("00", 64<<10+1) + `"`} {
		require.Error(t, json.Unmarshal([]byte(bad), &h), "%.20s", bad)
	}
}

func TestCredentialsAreNotPrinted(t *testing.T) {
	c := &api.Configure{Registry: &api.Credentials{Username: "user", Password: "secret"}}
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", *c.Registry, c.Registry, c.Registry), "secret")
	out, err := json.Marshal(c)
	require.NoError(t, err)
	require.Contains(t, string(out), `"password":"secret"`, "the service needs it")
}

// Members that are optional are left out, and those that a service of the first
// generation demands are there.
func TestBodiesAreSpelledAsServicesReadThem(t *testing.T) {
	image, port, counter := "app:1", int64(80), uint64(0)
	for want, body := range map[string]any{
		`{"pubkey":"01","signature":"02"}`:                                             &api.Operator{Pubkey: api.Hex{1}, Signature: api.Hex{2}},
		`{"pubkey":"01","signature":"02","sealed_key":"03"}`:                           &api.Owner{Pubkey: api.Hex{1}, Signature: api.Hex{2}, SealedKey: api.Hex{3}},
		`{"instance_pubkey":"01","image":"app:1","persist_dirs":[],"port":80}`:         &api.Configure{InstancePubkey: api.Hex{1}, Image: &image, PersistDirs: []string{}, Port: &port},
		`{"instance_pubkey":"01","image":"app:1"}`:                                     &api.Expose{InstancePubkey: api.Hex{1}, Image: &image},
		`{"instance_pubkey":"01","signature":"02","sealed_key":"03","last_counter":0}`: &api.Unlock{InstancePubkey: api.Hex{1}, Signature: api.Hex{2}, SealedKey: api.Hex{3}, LastCounter: &counter},
		`{"status":"success","registry":"pending","reason":"registry_unreachable"}`:    &api.Done{Status: api.StatusSuccess, Registry: api.RegistryPending, Reason: "registry_unreachable"},
	} {
		out, err := json.Marshal(body)
		require.NoError(t, err)
		require.Equal(t, want, string(out))
	}
}
