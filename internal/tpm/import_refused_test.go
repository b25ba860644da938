package tpm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

// importFails imports into a new directory, in which nothing may be left.
func importFails(t *testing.T, d *Device, i Import) error {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "key")
	_, err := d.OpenKey(t.Context(), KeyOptions{Dir: dir, Import: &i})
	require.Error(t, err)
	require.NoFileExists(t, filepath.Join(dir, recordFile))
	require.NoFileExists(t, filepath.Join(dir, infoFile))
	objects, sessions := held(t, d)
	require.Zero(t, objects)
	require.Zero(t, sessions)
	return err
}

// wrongTries is how many wrong auth values the TPM has counted.
func wrongTries(t testing.TB, d *Device) uint32 {
	t.Helper()
	n, err := ask(t.Context(), d, "counting", func(l *link) (uint32, error) { return l.property(tpm2.TPMPTLockoutCounter) })
	require.NoError(t, err)
	return n
}

func TestWrongAuthValueLeavesNothingAndIsTriedOnce(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	work := t.TempDir()
	soft.Tools(work, makeKey(toolsECC, `-G ecc256:ecdsa-sha256 -p secret`))
	b, err := readBlobs(t, work)
	require.NoError(t, err)
	d := openDevice(t, soft.Device(), Options{})
	for _, auth := range []string{"", "guess"} {
		tries := wrongTries(t, d)
		require.ErrorIs(t, importFails(t, d, Import{Blobs: b, Auth: []byte(auth)}), ErrWrongAuth)
		require.Equal(t, tries+1, wrongTries(t, d), "each attempt brings lockout nearer")
	}
	k := importKey(t, d, Import{Blobs: b, Auth: []byte("secret")})
	requireSigns(t, k.Key, k.PublicKey())
	require.NoError(t, k.Close())
	require.NoError(t, d.Close())

	exempt := t.TempDir()
	soft.Tools(exempt, makeKey(toolsECC, `-G ecc256:ecdsa-sha256 -p secret -a '`+signOnly+`|noda'`))
	b, err = readBlobs(t, exempt)
	require.NoError(t, err)
	d = openDevice(t, soft.Device(), Options{})
	tries := wrongTries(t, d)
	require.ErrorIs(t, importFails(t, d, Import{Blobs: b, Auth: []byte("guess")}), ErrWrongAuth)
	require.Equal(t, tries, wrongTries(t, d))
}

// A record whose auth value is wrong must not lock the TPM by trying again and again.
func TestEditedAuthValueDoesNotLockTheTPM(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	work := t.TempDir()
	soft.Tools(work, makeKey(toolsECC, `-G ecc256:ecdsa-sha256 -p secret`))
	b, err := readBlobs(t, work)
	require.NoError(t, err)
	d := openDevice(t, soft.Device(), Options{})
	k := importKey(t, d, Import{Blobs: b, Auth: []byte("secret")})
	require.NoError(t, k.Close())
	k.rec.Auth = []byte("edited")
	require.NoError(t, k.rec.write(k.dir))
	again := openKey(t, d, KeyOptions{Dir: k.dir})
	tries := wrongTries(t, d)
	for range 5 {
		_, err := again.Sign(t.Context(), make([]byte, 32))
		require.ErrorIs(t, err, ErrWrongAuth)
		require.Equal(t, Permanent, Classify(err))
	}
	require.Equal(t, tries+1, wrongTries(t, d))
}

func TestLockedOutTPMSignsAgainAfterwards(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	work := t.TempDir()
	soft.Tools(work, makeKey(toolsECC, `-G ecc256:ecdsa-sha256 -p secret`))
	b, err := readBlobs(t, work)
	require.NoError(t, err)
	d := openDevice(t, soft.Device(), Options{})
	k := importKey(t, d, Import{Blobs: b, Auth: []byte("secret")})
	require.NoError(t, k.Close())
	require.NoError(t, d.Close())

	// Somebody else guesses.
	soft.Tools(work, `tpm2_dictionarylockout -Q -s -n 1 -t 1000 -l 1000
tpm2_createprimary -Q -C o -G ecc -c p.ctx; flush
tpm2_load -Q -C p.ctx -u key.pub -r key.priv -c key.ctx; flush
tpm2_sign -Q -c key.ctx -p guess -g sha256 -o sig key.pub && exit 1; flush`)
	d = openDevice(t, soft.Device(), Options{})
	_, err = d.OpenKey(t.Context(), KeyOptions{Dir: k.dir})
	require.Error(t, err, "the parent is under protection as well")
	require.Equal(t, Lockout, Classify(err))
	require.NoError(t, d.Close())
	soft.Tools(work, `tpm2_dictionarylockout -Q -c`)
	d = openDevice(t, soft.Device(), Options{})
	again := openKey(t, d, KeyOptions{Dir: k.dir})
	requireSigns(t, again, k.PublicKey())
}

func TestBlobsUnderAnotherParentAreRefused(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	other := tpmtest.Start(t)
	foreign, own, odd, cleared := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	other.Tools(foreign, makeKey(toolsECC, `-G ecc256:ecdsa-sha256`))
	soft.Tools(cleared, makeKey(toolsECC, `-G ecc256:ecdsa-sha256`)+"\ntpm2_clear -Q -c p")
	soft.Tools(own, makeKey(toolsECC, `-G ecc256:ecdsa-sha256`))
	soft.Tools(odd, makeKey(toolsECC+" -g sha384", `-G ecc256:ecdsa-sha256`)+
		persistAt+"0x81000031\ntpm2_createprimary -Q -C o -G ecc -p parent -c p.ctx"+persistAt+
		"0x81000032; flush\ntpm2_createek -Q -c 0x81010001 -G rsa -u ek.pub; flush\n"+
		"tpm2_load -Q -C 0x81000031 -u key.pub -r key.priv -c p.ctx"+persistAt+"0x81000033; flush")
	d := openDevice(t, soft.Device(), Options{})
	for name, tc := range map[string]struct {
		dir    string
		parent uint32
		detail string
	}{
		"another TPM":           {foreign, 0, "another TPM"},
		"cleared":               {cleared, 0, "before it was cleared"},
		"primary of one's own":  {odd, 0, "made in a way of its own"},
		"other handle":          {own, 0x81000031, "another parent"},
		"nothing at the handle": {own, 0x81000034, "nothing is at"},
		"auth value":            {own, 0x81000032, "has an auth value"},
		"endorsement key":       {own, 0x81010001, "has a policy"},
		"no parent at all":      {own, 0x81000033, "no parent of keys"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := readBlobs(t, tc.dir)
			require.NoError(t, err)
			err = importFails(t, d, Import{Blobs: b, Parent: tc.parent})
			require.ErrorContains(t, err, tc.detail)
			require.Equal(t, Permanent, Classify(err))
		})
	}
	b, err := readBlobs(t, odd)
	require.NoError(t, err)
	k := importKey(t, d, Import{Blobs: b, Parent: 0x81000031})
	require.NoError(t, k.Close())
	t.Run("halves of two keys", func(t *testing.T) {
		require.NoError(t, os.Rename(filepath.Join(odd, "key.priv"), filepath.Join(own, "key.priv")))
		b, err := readBlobs(t, own)
		require.NoError(t, err)
		require.ErrorIs(t, importFails(t, d, Import{Blobs: b}), ErrNoParent)
	})
	t.Run("parent was evicted", func(t *testing.T) {
		require.NoError(t, d.Close())
		soft.Tools(odd, "tpm2_evictcontrol -Q -C o -c 0x81000031\ntpm2_createprimary -Q -C o -G ecc -c p.ctx"+persistAt+"0x81000031; flush")
		d = openDevice(t, soft.Device(), Options{})
		_, err := d.OpenKey(t.Context(), KeyOptions{Dir: k.dir})
		require.ErrorIs(t, err, ErrWrongTPM)
		require.ErrorContains(t, err, "parent")
	})
}

func TestImportAsksForTheKeysAlgorithm(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	work := t.TempDir()
	soft.Tools(work, makeKey(toolsECC, `-G rsa2048:rsapss-sha256:null`))
	b, err := readBlobs(t, work)
	require.NoError(t, err)
	d := openDevice(t, soft.Device(), Options{})
	err = importFails(t, d, Import{Blobs: b})
	require.ErrorIs(t, err, ErrOtherAlgorithm)
	require.ErrorContains(t, err, "PS256")
}

func TestImportNeverReplacesAKey(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	work, dir := t.TempDir(), filepath.Join(t.TempDir(), "key")
	soft.Tools(work, makeKey(toolsECC, `-G ecc256:ecdsa-sha256`))
	b, err := readBlobs(t, work)
	require.NoError(t, err)
	d := openDevice(t, soft.Device(), Options{})
	k := openKey(t, d, KeyOptions{Dir: dir})
	kid := k.KID()
	require.Empty(t, k.Cautions())
	require.NoError(t, k.Close())
	k = openKey(t, d, KeyOptions{Dir: dir, Import: &Import{Blobs: b}})
	require.Equal(t, kid, k.KID())
	require.NoError(t, k.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, recordFile)))
	_, err = d.OpenKey(t.Context(), KeyOptions{Dir: dir, Import: &Import{Blobs: b}})
	require.ErrorIs(t, err, ErrKeyDamaged, "a damaged directory is not a new one")
}

func TestSenselessImportIsRefused(t *testing.T) {
	t.Parallel()
	b := &Blobs{}
	for name, opts := range map[string]KeyOptions{
		"nothing":                {Dir: "d", Import: &Import{}},
		"both":                   {Dir: "d", Handle: MinHandle, Import: &Import{Blobs: b, Adopt: true}},
		"adoption of nowhere":    {Dir: "d", Import: &Import{Adopt: true}},
		"adoption with a parent": {Dir: "d", Handle: MinHandle, Import: &Import{Adopt: true, Parent: MinHandle}},
		"transient parent":       {Dir: "d", Import: &Import{Blobs: b, Parent: 0x80000000}},
		"auth value too long":    {Dir: "d", Import: &Import{Blobs: b, Auth: make([]byte, 33)}},
		"auth value with a zero": {Dir: "d", Import: &Import{Blobs: b, Auth: []byte("a\x00b")}},
	} {
		require.Error(t, opts.validate(), name)
	}
}
