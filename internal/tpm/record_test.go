package tpm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

// The files are frozen: what stands in directories has to be read for ever, and
// a record that is written again stays the same.
func TestRecordsOfAllVersionsAreReadAndWrittenAsTheyAre(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		version, cautions int
		alg               Algorithm
		kid               string
	}{
		"v1-made":    {1, 0, ES256, kidMade},
		"v2-primary": {2, 1, ES256, kidPrimary},
		"v2-handle":  {2, 2, PS256, kidHandle},
		"v2-adopted": {2, 2, ES256, kidPrimary},
	} {
		golden, err := os.ReadFile(filepath.Join("testdata", "records", name+".json"))
		require.NoError(t, err)
		dir := t.TempDir()
		path := filepath.Join(dir, recordFile)
		require.NoError(t, os.WriteFile(path, golden, 0o600))
		r, err := readRecord(dir)
		require.NoError(t, err, name)
		require.Equal(t, want.version, r.Version, name)
		require.Equal(t, want.alg, r.alg, name)
		require.Len(t, r.cautions(), want.cautions, name)
		info, err := r.info()
		require.NoError(t, err)
		require.Equal(t, want.kid, info.KID, name)

		require.NoError(t, r.write(dir))
		again, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(golden), string(again), name)
		have, err := ReadKeyInfo(dir)
		require.NoError(t, err)
		require.Equal(t, info, have)
	}
}

// The kids of the golden records.
const (
	kidMade    = "000bed6c325ccb1ca765d8bb85a5dad1a9a9295c5fd15fc84a5c2e72dbd587da42a6"
	kidPrimary = "000bf5aea5950567c149c15fc0b47f37a509ae71ab1bf67fd7fd821f2cb3f1dfc189"
	kidHandle  = "000b40fcea9770f6e3c512c737f6132de3203775d7fbfbc1de8e3a38414b32f0d417"
)

func TestImportedRecordOfAnotherTPMIsRefused(t *testing.T) {
	t.Parallel()
	d := openDevice(t, tpmtest.New(t), Options{})
	for _, name := range []string{"v1-made", "v2-primary", "v2-adopted"} {
		golden, err := os.ReadFile(filepath.Join("testdata", "records", name+".json"))
		require.NoError(t, err)
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, recordFile), golden, 0o600))
		_, err = d.OpenKey(t.Context(), KeyOptions{Dir: dir})
		require.ErrorIs(t, err, ErrWrongTPM, name)
	}
}

func TestRecordThatSaysTooMuchOrTooLittleIsDamaged(t *testing.T) {
	t.Parallel()
	load := func(name string) *record {
		golden, err := os.ReadFile(filepath.Join("testdata", "records", name+".json"))
		require.NoError(t, err)
		var r record
		require.NoError(t, decodeStrictly(golden, &r))
		require.NoError(t, r.derive())
		return &r
	}
	for name, tc := range map[string]struct {
		of     string
		change func(*record)
	}{
		"version 3":                     {"v2-primary", func(r *record) { r.Version = 3 }},
		"version 1 of an imported key":  {"v2-primary", func(r *record) { r.Version = 1 }},
		"foreign key in version 1":      {"v2-primary", func(r *record) { r.Version, r.From = 1, nil }},
		"version 2 without a parent":    {"v1-made", func(r *record) { r.Version = 2 }},
		"no provenance":                 {"v2-primary", func(r *record) { r.From = &provenance{} }},
		"parent and handle":             {"v2-primary", func(r *record) { r.From.Handle = MinHandle }},
		"no private area":               {"v2-primary", func(r *record) { r.Private = nil }},
		"private area of an adopted":    {"v2-adopted", func(r *record) { r.Private = []byte{1} }},
		"handle of the platform":        {"v2-adopted", func(r *record) { r.From.Handle = MaxHandle + 1 }},
		"unknown primary":               {"v2-primary", func(r *record) { r.From.Parent.Primary = "owner/mine" }},
		"primary at a handle":           {"v2-primary", func(r *record) { r.From.Parent.Handle = 0x81000001 }},
		"parent without a public area":  {"v2-primary", func(r *record) { r.From.Parent.Public = nil }},
		"signing key as parent":         {"v2-primary", func(r *record) { r.From.Parent.Public = r.Public }},
		"storage key as signing key":    {"v2-primary", func(r *record) { r.Public = r.StoragePublic }},
		"auth value with a zero":        {"v2-primary", func(r *record) { r.Auth = []byte{1, 0, 1} }},
		"no auth value in version 1":    {"v1-made", func(r *record) { r.Auth = nil }},
		"no private area in version 1":  {"v1-made", func(r *record) { r.Private = nil }},
		"storage root key is not there": {"v2-adopted", func(r *record) { r.StoragePublic = nil }},
	} {
		r := load(tc.of)
		tc.change(r)
		require.Error(t, r.derive(), name)
	}
}
