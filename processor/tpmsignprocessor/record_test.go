package tpmsignprocessor

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/receipt"
)

func frozen(t *testing.T, name string) []byte {
	text, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	return b
}

// What lies in a storage is read by every later version.
func TestFrozenRecordsAreRead(t *testing.T) {
	for name, want := range map[string]record{
		"record-v1-unsigned.hex": {state: stateUnsigned, signal: block.Logs, tolerances: block.Enrich, blocks: 1, assumed: true},
		"record-v2-unsigned.hex": {state: stateUnsigned, signal: block.Logs, tolerances: block.Split | block.Enrich, blocks: 1},
	} {
		b := frozen(t, name)
		got, err := decodeRecord(b, block.Logs, block.Enrich)
		require.NoError(t, err)
		payload := got.payload
		got.payload = nil
		require.Equal(t, want, got)
		batch, err := digest.UnmarshalBatch(block.Logs, payload)
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, bodies(batch.At(0)))
		if !want.assumed {
			want.payload = payload
			require.Equal(t, b, want.encode())
		}
	}
	low, high, err := decodeIndex(frozen(t, "index-v1.hex"))
	require.NoError(t, err)
	require.Equal(t, []uint64{0, 1}, []uint64{low, high})
	require.Equal(t, frozen(t, "index-v1.hex"), encodeIndex(0, 1))
}

func TestRecordsThatNoVersionWroteAreCorrupt(t *testing.T) {
	for name, body := range map[string][]byte{
		"shorter than its version": {recordVersion, 'u', 'L', 0, 0, 0, 0},
		"tolerances not known":     {recordVersion, 'u', 'L', 0x80, 0, 0, 0, 1},
		"version 0":                {0, 'u', 'L', 0, 0, 0, 0, 1},
		"version 3":                {3, 'u', 'L', 0, 0, 0, 0, 1},
	} {
		sum := sha256.Sum256(body)
		_, err := decodeRecord(append(bytes.Clone(body), sum[:]...), block.Logs, 0)
		require.ErrorIs(t, err, errRecordCorrupt, name)
	}
}

// encodeVersion1 writes a record as it was before records named tolerances.
func encodeVersion1(r record) []byte {
	b := binary.BigEndian.AppendUint32([]byte{recordVersion1, byte(r.state), byte(r.signal)}, uint32(r.blocks))
	b = append(b, r.payload...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// manyKeys is a request that cannot be signed with enrich.
func manyKeys(name string) digest.Batch {
	b := logsOf(name)
	for i := range 513 {
		b.At(0).Attributes().PutStr(fmt.Sprint("k", i), "v")
	}
	return b
}

// noting keeps the receipts that come by.
type noting struct {
	mu       sync.Mutex
	receipts map[string]*receipt.Receipt // by the first item
}

func (n *noting) watch(t *testing.T, v *verifier) *verifier {
	v.saw = func(b digest.Block) {
		p, err := b.Proof()
		require.NoError(t, err)
		rec, err := receipt.Decode(p.Receipt)
		require.NoError(t, err)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.receipts[bodies(b)[0]] = rec
	}
	return v
}

// Accepted with success under some tolerances, and signed when others are
// configured.
func TestAcceptedRequestOutlivesItsTolerances(t *testing.T) {
	for name, tt := range map[string]struct {
		accepted, today []string
		version1        bool
		enrich          map[string]bool // which requests are signed with it
	}{
		"enrich comes":               {today: []string{"enrich"}, enrich: map[string]bool{"few": false, "many": false}},
		"enrich goes":                {accepted: []string{"enrich"}, enrich: map[string]bool{"few": true}},
		"enrich comes, an older one": {today: []string{"enrich"}, version1: true, enrich: map[string]bool{"few": true, "many": false}},
		"enrich goes, an older one":  {accepted: []string{"enrich"}, version1: true, enrich: map[string]bool{"few": false}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tpm := newFakeTPM(t, 1)
			tpm.unready.Store(true)
			seen := &noting{receipts: map[string]*receipt.Receipt{}}
			next := seen.watch(t, newVerifier(block.Logs))
			s := newSUT(t, testConfig(withStorage, func(c *Config) { c.Tolerate = tt.accepted }), next).start(storedHost(t, tpm, dir))
			require.NoError(t, s.send(logsOf("few")))
			if _, many := tt.enrich["many"]; many {
				require.NoError(t, s.send(manyKeys("many")))
			}
			s.stop()
			left := copyOf(t, dir)
			if tt.version1 {
				spoil(t, left, func(c storage.Client) {
					for id := range len(tt.enrich) {
						value, err := c.Get(t.Context(), recordKey(uint64(id)))
						require.NoError(t, err)
						rec, err := decodeRecord(value, block.Logs, 0)
						require.NoError(t, err)
						require.NoError(t, c.Set(t.Context(), recordKey(uint64(id)), encodeVersion1(rec)))
					}
				})
			}

			s2 := newSUT(t, testConfig(withStorage, func(c *Config) { c.Tolerate = tt.today }), next).
				start(storedHost(t, newFakeTPM(t, 2), left))
			eventually(t, func() bool { return s2.pendingBlocks() == 0 }, "pending is worked off")
			s2.stop()
			next.requireContiguous(t)
			require.Len(t, next.accepted(), len(tt.enrich))
			for body, enrich := range tt.enrich {
				require.Equal(t, enrich, seen.receipts[body].Keys != nil, body)
			}
		})
	}
}
