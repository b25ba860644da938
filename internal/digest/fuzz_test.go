package digest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// FuzzBlockDigest decodes a request and holds every block that the signer
// accepts to this: the digest is what the specification says, the same after
// another Prepare, after protobuf and JSON, and Check accepts it there.
//
// The first byte chooses signal and tolerances.
func FuzzBlockDigest(f *testing.F) {
	f.Fuzz(func(t *testing.T, choice byte, request []byte) {
		s := signals[int(choice)%len(signals)]
		tol := allTolerances[int(choice)/len(signals)%len(allTolerances)]
		batch, err := UnmarshalBatch(s, request)
		if err != nil {
			return
		}
		for i := range min(batch.Len(), 8) {
			one := NewBatch(s)
			batch.At(i).CopyTo(one)
			_ = one.At(0).Inspect()
			_, _ = one.At(0).Proof()
			p, err := one.At(0).Prepare(tol)
			if err != nil {
				switch r := reason.Of(err); r {
				case reason.HiddenField, reason.TooDeep:
				default:
					t.Fatalf("refused with %q: %v", r, err)
				}
				continue
			}
			if p.Items > 0 {
				checkAccepted(t, one, tol, p)
			}
		}
	})
}

func checkAccepted(t *testing.T, one Batch, tol block.Tolerance, p Prepared) {
	m := toMessages(t, one)[0]
	if tol.Has(block.Split) {
		manifest, d := refManifest(one.Signal(), m, nil)
		require.Equal(t, manifest, p.Manifest)
		require.Equal(t, d, p.Digest)
	} else {
		require.Equal(t, refDigest(one.Signal(), m, nil), p.Digest)
	}
	again, err := one.At(0).Prepare(tol)
	require.NoError(t, err)
	require.Zero(t, again.Cleaning)
	again.Cleaning = p.Cleaning
	require.Equal(t, p, again)
	for i, b := range []Batch{one, reread(one), viaJSON(t, one)} {
		a, err := b.At(0).Check(expect(tol, p))
		require.NoError(t, err)
		require.Equal(t, p.Items, a.Items)
		require.Nil(t, a.Candidates)
		if i < 2 { // JSON has only one NaN, and decoders make their own of it
			require.Zero(t, a.NaNs)
		}
	}
}

var update = flag.Bool("update", false, "write the seed corpora anew")

// corpus makes the seeds of FuzzBlockDigest.
func corpus(t *testing.T) map[string][]byte {
	t.Helper()
	seeds := map[string][]byte{}
	for i, s := range signals {
		add := func(name string, tol int, blocks ...[]byte) {
			var req []byte
			for _, b := range blocks {
				req = protowire.AppendBytes(protowire.AppendTag(req, 1, protowire.BytesType), b)
			}
			seeds[s.String()+"-"+name] = fmt.Appendf(nil, "go test fuzz v1\nbyte(%s)\n[]byte(%s)\n",
				strconv.QuoteRuneToASCII(rune(i+tol*len(signals))), strconv.QuoteToASCII(string(req)))
		}
		full := newBlockMessage(s)
		sample(full.ProtoReflect(), nil)
		every, err := proto.Marshal(full)
		require.NoError(t, err)
		add("every-field", 0, every)
		add("every-field-split", 1, every)
		add("every-field-enrich", 2, every)
		add("empty", 0, nil)
		for seed := range 3 {
			m, err := proto.MarshalOptions{Deterministic: true}.Marshal(newGenerator(uint64(seed) + 50).block(s))
			require.NoError(t, err)
			add(fmt.Sprintf("random-%d", seed), seed+1, m[:min(len(m), 8<<10)], every)
		}
		add("reserved", 0, withResourceAttr(every, &commonpb.KeyValue{Key: "telemark.verdict"}))
		add("proof", 3, withResourceAttr(every, &commonpb.KeyValue{Key: block.AttrReceipt}))
		add("hidden-key", 0, withResourceAttr(every, &commonpb.KeyValue{KeyStrindex: 1}))
		add("deprecated-field", 0, append(slices.Clip(every), 0xc2, 0x3e, 0))
		var deep commonpb.AnyValue
		require.NoError(t, proto.Unmarshal(nested(MaxDepth+1, true), &deep))
		add("too-deep", 0, withResourceAttr(every, &commonpb.KeyValue{Key: "k", Value: &deep}))
		raw := withResourceAttr(every, &commonpb.KeyValue{Key: marker})
		add("invalid-utf8", 0, append(raw[:len(raw)-4:len(raw)-4], 0xff, 0xfe, 0xff, 0xc3))
		nan := []byte{0x0a, 1, 'n', 0x12, 9, 0x21, 1, 0, 0, 0, 0, 0, 0xf8, 0x7f}
		add("nan", 0, append(slices.Clip(every), protowire.AppendBytes([]byte{0x0a}, protowire.AppendBytes([]byte{0x0a}, nan))...))
	}
	return seeds
}

func TestSeedCorporaAreThere(t *testing.T) {
	keys := map[string][]byte{}
	for i, k := range reservedCases {
		keys[fmt.Sprintf("key-%02d", i)] = fmt.Appendf(nil, "go test fuzz v1\nstring(%s)\n", strconv.QuoteToASCII(k))
	}
	for target, seeds := range map[string]map[string][]byte{"FuzzBlockDigest": corpus(t), "FuzzReservedKey": keys} {
		dir := filepath.Join("testdata", "fuzz", target)
		require.NotEmpty(t, seeds)
		if *update {
			require.NoError(t, os.MkdirAll(dir, 0o750))
			for name, data := range seeds {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
			}
		}
		for name := range seeds {
			require.FileExists(t, filepath.Join(dir, name))
		}
	}
}
