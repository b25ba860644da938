package tdx_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tdx-guest/abi"
	"github.com/google/go-tdx-guest/pcs"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
)

// What Parse accepts the library reads without panic, and as the same bytes:
// nothing is left over that one of them does not see.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := tdx.Parse(b)
		if err != nil {
			require.NotEqual(t, api.Internal, api.ReasonOf(err), "%v", err)
			return
		}
		_, _ = tdx.Authenticate(b, trusted, now)
		if q.EncryptedPPID {
			return
		}
		read, err := abi.QuoteToProto(b)
		require.NoError(t, err)
		again, err := abi.QuoteToAbiBytes(read)
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, again), "the library reads other bytes")
	})
}

// What is read of TCB information is what the library reads: no second
// meaning hides in it.
func FuzzTCBInfo(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, err := tdx.BriefOf(b)
		if err != nil {
			return
		}
		var theirs pcs.TcbInfo
		require.NoError(t, json.Unmarshal(b, &theirs))
		require.EqualValues(t, ours.Number, theirs.TcbEvaluationDataNumber)
		fmspc, err := hex.DecodeString(theirs.Fmspc)
		require.NoError(t, err)
		require.Equal(t, ours.FMSPC, hex.EncodeToString(fmspc))
		require.Len(t, theirs.TcbLevels, len(ours.Status))
		for i, l := range theirs.TcbLevels {
			require.Equal(t, ours.Status[i], string(l.TcbStatus))
			require.Equal(t, ours.PCESVN[i], l.Tcb.Pcesvn)
			for j, c := range l.Tcb.SgxTcbcomponents {
				require.Equal(t, ours.SGX[i][j], c.Svn)
			}
		}
		require.Len(t, theirs.TdxModuleIdentities, len(ours.Modules))
		for i, m := range theirs.TdxModuleIdentities {
			require.Equal(t, ours.Modules[i], m.ID)
		}
	})
}

// The identity of the quoting enclave, and whole answers around it, are
// refused or read without panic.
func FuzzQEIdentity(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := tdx.ReadQEIdentity(b); err == nil {
			var theirs pcs.EnclaveIdentity
			require.NoError(t, json.Unmarshal(b, &theirs))
			require.Equal(t, "TD_QE", theirs.ID)
		}
		c := collateral()
		c.QEIdentity = b
		_, err := tdx.Open(c, trusted, now)
		require.True(t, err == nil || api.ReasonOf(err) != api.Internal, "%v", err)
	})
}

func FuzzPolicies(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := tdx.ParsePolicies(b)
		require.NotEqual(t, err == nil, p == nil)
	})
}

func TestSeedsAreThere(t *testing.T) {
	for _, target := range []string{"FuzzParse", "FuzzTCBInfo", "FuzzQEIdentity", "FuzzPolicies"} {
		seeds, err := os.ReadDir(filepath.Join("testdata", "fuzz", target))
		require.NoError(t, err)
		require.NotEmpty(t, seeds, target)
	}
}
