package tpm

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

func TestKeyIsTheSameAfterRestartOfEverything(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	dir := filepath.Join(t.TempDir(), "key")
	d := openDevice(t, soft.Device(), Options{})
	k := openKey(t, d, KeyOptions{Dir: dir, Name: "edge-a"})
	kid, pub := k.KID(), k.PublicKey()
	requireSigns(t, k, pub)
	require.NoError(t, k.Close())
	require.NoError(t, k.Close(), "closing twice")
	require.NoError(t, d.Close())
	require.NoError(t, d.Close(), "closing twice")
	soft.Restart()

	d = openDevice(t, soft.Device(), Options{})
	k = openKey(t, d, KeyOptions{Dir: dir})
	require.Equal(t, kid, k.KID())
	require.Equal(t, "edge-a", k.Info().Name, "an empty name keeps the one there")
	requireSigns(t, k, pub)
}

func TestKIDIsTheNameAndAttributesAreWhatResidencyNeeds(t *testing.T) {
	t.Parallel()
	_, k := fixture(t)
	info := k.Info()
	digest := sha256.Sum256(info.TPMPublic)
	require.Equal(t, append([]byte{0x00, 0x0b}, digest[:]...), k.KID())
	require.Equal(t, hex.EncodeToString(k.KID()), info.KID)

	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](info.TPMPublic)
	require.NoError(t, err)
	require.Equal(t, tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
		UserWithAuth: true, NoDA: true, SignEncrypt: true,
	}, public.ObjectAttributes)

	block, rest := pem.Decode([]byte(info.PublicKey))
	require.Empty(t, rest)
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	require.NoError(t, err)
	require.Equal(t, pub, k.PublicKey())
	require.Equal(t, "ES256", info.Alg)
}

func TestClosedKeyAndDeviceRefuse(t *testing.T) {
	t.Parallel()
	d, k := fixture(t)
	require.NoError(t, k.Close())
	objects, sessions := held(t, d)
	require.Zero(t, objects)
	require.Zero(t, sessions)
	_, err := k.Sign(t.Context(), make([]byte, 32))
	require.ErrorIs(t, err, ErrClosed)
	_, err = k.Certify(t.Context(), nil)
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, d.Close())
	_, err = d.Clock(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	_, err = d.OpenKey(t.Context(), KeyOptions{Dir: t.TempDir()})
	require.ErrorIs(t, err, ErrClosed)
}

func TestFilesOfAKeyArePrivate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "key")
	d := openDevice(t, tpmtest.New(t), Options{})
	openKey(t, d, KeyOptions{Dir: dir})
	fi, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		fi, err := e.Info()
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), fi.Mode().Perm(), e.Name())
		names = append(names, e.Name())
	}
	require.Equal(t, []string{infoFile, lockFile, recordFile}, names, "and no temporary files stay")
}

func TestAuthValueThatOthersCanReadIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "key")
	d := openDevice(t, tpmtest.New(t), Options{})
	require.NoError(t, openKey(t, d, KeyOptions{Dir: dir}).Close())
	require.NoError(t, os.Chmod(filepath.Join(dir, recordFile), 0o640))
	_, err := d.OpenKey(t.Context(), KeyOptions{Dir: dir})
	require.ErrorContains(t, err, "chmod 600")
	require.Equal(t, Permanent, Classify(err))
}

func TestPublicPartIsReadWithoutTPMAndChecked(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "key")
	d := openDevice(t, tpmtest.New(t), Options{})
	k := openKey(t, d, KeyOptions{Dir: dir, Name: "edge-a"})
	info, err := ReadKeyInfo(dir)
	require.NoError(t, err)
	require.Equal(t, k.Info(), info)

	path := filepath.Join(dir, infoFile)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(good), "auth")
	var doc map[string][]map[string]any
	require.NoError(t, json.Unmarshal(good, &doc))
	require.Equal(t, []string{"alg", "kid", "name", "public_key", "tpm_public"}, sortedKeys(doc["keys"][0]))

	other := fixtureInfo(t)
	for name, bad := range map[string]string{
		"empty":          "",
		"no keys":        `{"keys":[]}`,
		"trailing":       string(good) + "{}",
		"unknown member": `{"keys":[],"extra":1}`,
		"foreign kid":    string(bytes.Replace(good, []byte(info.KID), []byte(other.KID), 1)),
		"wrong alg":      string(bytes.Replace(good, []byte("ES256"), []byte("ES384"), 1)),
	} {
		require.NoError(t, os.WriteFile(path, []byte(bad), 0o600))
		_, err := ReadKeyInfo(dir)
		require.ErrorIs(t, err, ErrKeyDamaged, name)
	}

	// It is derived, so opening the key writes it again.
	require.NoError(t, os.Remove(path))
	_, err = ReadKeyInfo(dir)
	require.ErrorIs(t, err, ErrKeyDamaged)
	require.NotErrorIs(t, err, os.ErrNotExist)
	_, err = ReadKeyInfo(t.TempDir())
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, k.Close())
	openKey(t, d, KeyOptions{Dir: dir})
	mended, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, good, mended)
}

func fixtureInfo(t testing.TB) KeyInfo {
	t.Helper()
	_, k := fixture(t)
	return k.Info()
}

func sortedKeys(m map[string]any) []string {
	var keys []string
	for _, k := range []string{"alg", "kid", "name", "public_key", "tpm_public"} {
		if _, ok := m[k]; ok {
			keys = append(keys, k)
		}
	}
	if len(keys) != len(m) {
		return nil
	}
	return keys
}

func TestNameOfMachineMayChange(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "key")
	d := openDevice(t, tpmtest.New(t), Options{})
	k := openKey(t, d, KeyOptions{Dir: dir, Name: "edge-a"})
	kid := k.KID()
	require.NoError(t, k.Close())
	k = openKey(t, d, KeyOptions{Dir: dir, Name: "edge-b"})
	require.Equal(t, kid, k.KID())
	info, err := ReadKeyInfo(dir)
	require.NoError(t, err)
	require.Equal(t, "edge-b", info.Name)
	requireSigns(t, k, k.PublicKey())
}

func TestDamagedDirectoryNeverBecomesANewKey(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "key")
	d := openDevice(t, tpmtest.New(t), Options{})
	require.NoError(t, openKey(t, d, KeyOptions{Dir: dir}).Close())
	path := filepath.Join(dir, recordFile)
	good, err := os.ReadFile(path)
	require.NoError(t, err)

	edit := func(change func(*record)) []byte {
		var r record
		require.NoError(t, json.Unmarshal(good, &r))
		change(&r)
		b, err := json.Marshal(&r)
		require.NoError(t, err)
		return b
	}
	for name, bad := range map[string][]byte{
		"empty":                 {},
		"half":                  good[:len(good)/2],
		"trailing":              append(bytes.Clone(good), "{}"...),
		"other version":         edit(func(r *record) { r.Version++ }),
		"no auth value":         edit(func(r *record) { r.Auth = nil }),
		"auth value with zero":  edit(func(r *record) { r.Auth[5] = 0 }),
		"no private area":       edit(func(r *record) { r.Private = nil }),
		"flipped private area":  edit(func(r *record) { r.Private[40] ^= 1 }),
		"short private area":    edit(func(r *record) { r.Private = r.Private[:20] }),
		"no public area":        edit(func(r *record) { r.Public = nil }),
		"short public area":     edit(func(r *record) { r.Public = r.Public[:30] }),
		"long public area":      edit(func(r *record) { r.Public = append(r.Public, 0) }),
		"other attributes":      edit(func(r *record) { r.Public[5] ^= 0x10 }),
		"a key of another type": edit(func(r *record) { r.Public = tpm2.Marshal(tpm2.RSAEKTemplate) }),
		"point not on curve":    edit(func(r *record) { r.Public[len(r.Public)-1] ^= 1 }),
		"no storage public":     edit(func(r *record) { r.StoragePublic = nil }),
		"random storage public": edit(func(r *record) { r.StoragePublic = bytes.Repeat([]byte{0xA5}, 90) }),
	} {
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		_, err := d.OpenKey(t.Context(), KeyOptions{Dir: dir})
		require.ErrorIs(t, err, ErrKeyDamaged, name)
		require.Equal(t, Permanent, Classify(err), name)
		left, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, bad, left, name)
	}

	require.NoError(t, os.Remove(path))
	_, err = d.OpenKey(t.Context(), KeyOptions{Dir: dir})
	require.ErrorIs(t, err, ErrKeyDamaged, "key.json alone")

	require.NoError(t, os.WriteFile(path, good, 0o600))
	openKey(t, d, KeyOptions{Dir: dir})
}

func TestWrongAuthValueIsPermanentAndLocksNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "key")
	d := openDevice(t, tpmtest.New(t), Options{})
	require.NoError(t, openKey(t, d, KeyOptions{Dir: dir}).Close())
	path := filepath.Join(dir, recordFile)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var r record
	require.NoError(t, json.Unmarshal(b, &r))
	r.Auth = newAuth()
	b, err = json.Marshal(&r)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, b, 0o600))

	k := openKey(t, d, KeyOptions{Dir: dir})
	for range 5 {
		_, err = k.Sign(t.Context(), make([]byte, 32))
		require.ErrorIs(t, err, tpm2.TPMRCBadAuth)
		require.Equal(t, Permanent, Classify(err))
	}
	p, err := d.Properties(t.Context())
	require.NoError(t, err)
	require.False(t, p.InLockout)
	require.Zero(t, p.LockoutCounter)
	_, sessions := held(t, d)
	require.LessOrEqual(t, sessions, 1)
}

func TestGivenAuthValueIsUsed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "key")
	d := openDevice(t, tpmtest.New(t), Options{})
	k := openKey(t, d, KeyOptions{Dir: dir, Auth: []byte("correct horse")})
	requireSigns(t, k, k.PublicKey())
	r, err := readRecord(dir)
	require.NoError(t, err)
	require.Equal(t, "correct horse", string(r.Auth))
}

// go-tpm cuts an auth value at its first zero byte, so one with a zero byte
// inside would never be accepted by the TPM.
func TestAuthValuesHaveNoZeroBytes(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 5000 {
		auth := newAuth()
		require.Len(t, auth, 32)
		require.NotContains(t, auth, byte(0))
		require.False(t, seen[string(auth)])
		seen[string(auth)] = true
	}
	d := openDevice(t, tpmtest.New(t), Options{})
	for _, bad := range [][]byte{{1, 0, 2}, {0}, bytes.Repeat([]byte{1}, 33)} {
		_, err := d.OpenKey(t.Context(), KeyOptions{Dir: t.TempDir(), Auth: bad})
		require.ErrorContains(t, err, "auth value")
		_, err = Open(t.Context(), "unix:/nowhere", Options{OwnerAuth: bad})
		require.ErrorContains(t, err, "owner auth value")
		_, err = Open(t.Context(), "unix:/nowhere", Options{EndorsementAuth: bad})
		require.ErrorContains(t, err, "endorsement auth value")
	}
}

func TestKeyOfAnotherTPMIsNamedAsThat(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "key")
	first := openDevice(t, tpmtest.New(t), Options{})
	k := openKey(t, first, KeyOptions{Dir: dir})
	pub := k.PublicKey()
	require.NoError(t, k.Close())
	before, err := os.ReadFile(filepath.Join(dir, recordFile))
	require.NoError(t, err)

	second := openDevice(t, tpmtest.New(t), Options{})
	_, err = second.OpenKey(t.Context(), KeyOptions{Dir: dir})
	require.ErrorIs(t, err, ErrWrongTPM)
	require.Equal(t, Permanent, Classify(err))
	objects, sessions := held(t, second)
	require.Zero(t, objects)
	require.Zero(t, sessions)

	after, err := os.ReadFile(filepath.Join(dir, recordFile))
	require.NoError(t, err)
	require.Equal(t, before, after)
	requireSigns(t, openKey(t, first, KeyOptions{Dir: dir}), pub)
}

func TestOneKeyDirectoryHasOneOwner(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "key")
	d := openDevice(t, tpmtest.New(t), Options{})
	k := openKey(t, d, KeyOptions{Dir: dir})
	_, err := d.OpenKey(t.Context(), KeyOptions{Dir: dir})
	require.ErrorIs(t, err, ErrInUse)
	require.Equal(t, Permanent, Classify(err))
	requireSigns(t, k, k.PublicKey())
}

func TestKeyOptionsAreChecked(t *testing.T) {
	t.Parallel()
	d := openDevice(t, tpmtest.New(t), Options{})
	_, err := d.OpenKey(t.Context(), KeyOptions{})
	require.ErrorContains(t, err, "directory")
	for _, handle := range []uint32{1, 0x80FFFFFF, 0x81800000, 0x01800000} {
		_, err = d.OpenKey(t.Context(), KeyOptions{Dir: t.TempDir(), Handle: handle})
		require.ErrorContains(t, err, "range of the owner")
	}
}
