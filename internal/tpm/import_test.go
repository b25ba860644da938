package tpm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
	"github.com/telemark-otel/telemark/internal/tpmattest"
)

// How tpm2-tools make what keys stand under.
const (
	srk       = `fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt`
	signOnly  = `fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign`
	toolsECC  = `tpm2_createprimary -Q -C o -G ecc -c p.ctx`
	persistAt = "\ntpm2_evictcontrol -Q -C o -c p.ctx "
)

// make returns a script that makes a key below a primary key.
func makeKey(primary, create string) string {
	return primary + "\nflush\ntpm2_create -Q -C p.ctx -u key.pub -r key.priv " + create + "\nflush"
}

func readBlobs(t testing.TB, dir string) (*Blobs, error) {
	t.Helper()
	return ReadBlobs(filepath.Join(dir, "key.pub"), filepath.Join(dir, "key.priv"))
}

// imported is a key that was imported with success.
type imported struct {
	*Key
	dir string
}

func importKey(t testing.TB, d *Device, i Import) imported {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "key")
	k := openKey(t, d, KeyOptions{Dir: dir, Name: "edge-a", Import: &i})
	return imported{k, dir}
}

func TestKeysOfTPM2ToolsAreImported(t *testing.T) {
	t.Parallel()
	// The unique of a template, as the structure stands in memory.
	zeros := `head -c 128 /dev/zero > z; printf '\040\000' > n; cat n z n z > ecc.unique
printf '\000\001' > n; head -c 256 /dev/zero > z; cat n z > rsa.unique` + "\n"
	for name, tc := range map[string]struct {
		primary, create string
		parent          string // of the record
		handle          uint32
		auth            string
		alg             Algorithm
		cautions        int
	}{
		"ecc primary of the tools":            {toolsECC, `-G ecc256:ecdsa-sha256`, "owner/tools-p256", 0, "", ES256, 2},
		"rsa primary of the tools":            {`tpm2_createprimary -Q -C o -c p.ctx`, `-G ecc256:ecdsa-sha256 -p secret`, "owner/tools-rsa2048", 0, "secret", ES256, 1},
		"ecc primary in the endorsement tree": {`tpm2_createprimary -Q -C e -G ecc -c p.ctx`, `-G ecc256:ecdsa-sha256`, "endorsement/tools-p256", 0, "", ES256, 2},
		"rsa primary in the endorsement tree": {`tpm2_createprimary -Q -C e -G rsa -c p.ctx`, `-G ecc256:ecdsa-sha256`, "endorsement/tools-rsa2048", 0, "", ES256, 2},
		"srk attributes on ecc":               {`tpm2_createprimary -Q -C o -G ecc256:null:aes128cfb -a '` + srk + `' -c p.ctx`, `-G ecc256:ecdsa-sha256 -a '` + signOnly + `|noda' -p secret`, "owner/bare-p256", 0, "secret", ES256, 0},
		"srk attributes on rsa":               {`tpm2_createprimary -Q -C o -G rsa2048:null:aes128cfb -a '` + srk + `' -c p.ctx`, `-G ecc256:ecdsa-sha256`, "owner/bare-rsa2048", 0, "", ES256, 2},
		"srk of the tcg on ecc":               {zeros + `tpm2_createprimary -Q -C o -G ecc256:null:aes128cfb -a '` + srk + `' -u ecc.unique -c p.ctx`, `-G ecc256:ecdsa-sha256`, "owner/srk-p256", 0, "", ES256, 2},
		"srk of the tcg on rsa":               {zeros + `tpm2_createprimary -Q -C o -G rsa2048:null:aes128cfb -a '` + srk + `' -u rsa.unique -c p.ctx`, `-G ecc256:ecdsa-sha256`, "owner/srk-rsa2048", 0, "", ES256, 2},
		"primary with an auth value":          {toolsECC + ` -p parent`, `-P parent -G ecc256:ecdsa-sha256`, "owner/tools-p256", 0, "", ES256, 2},
		"parent at a handle":                  {toolsECC + ` -g sha384` + persistAt + `0x81000021`, `-G ecc256:ecdsa-sha256`, "", 0x81000021, "", ES256, 2},
		"policy beside the auth value":        {`head -c 32 /dev/zero > pol; ` + toolsECC, `-G ecc256:ecdsa-sha256 -L pol -p secret`, "owner/tools-p256", 0, "secret", ES256, 2},
		"stclear":                             {toolsECC, `-G ecc256:ecdsa-sha256 -a '` + signOnly + `|stclear'`, "owner/tools-p256", 0, "", ES256, 2},
		"p-384":                               {toolsECC, `-G ecc384:ecdsa-sha384`, "owner/tools-p256", 0, "", ES384, 2},
		"rsapss under an ecc primary":         {toolsECC, `-G rsa2048:rsapss-sha256:null -p secret`, "owner/tools-p256", 0, "secret", PS256, 1},
		"rsapss under an rsa primary":         {`tpm2_createprimary -Q -C o -G rsa -c p.ctx`, `-G rsa2048:rsapss:null`, "owner/tools-rsa2048", 0, "", PS256, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			soft := tpmtest.Start(t)
			work := t.TempDir()
			soft.Tools(work, makeKey(tc.primary, tc.create))
			soft.Restart()

			b, err := readBlobs(t, work)
			require.NoError(t, err)
			require.Equal(t, tc.alg, b.Algorithm())
			d := openDevice(t, soft.Device(), Options{Algorithm: tc.alg})
			k := importKey(t, d, Import{Blobs: b, Parent: tc.handle, Auth: []byte(tc.auth)})
			requireSigns(t, k.Key, k.PublicKey())
			require.Equal(t, b.KID(), k.KID())
			require.Len(t, k.Cautions(), tc.cautions, "%q", k.Cautions())
			require.Equal(t, tc.parent, k.rec.From.Parent.Primary)
			require.Equal(t, tc.handle, k.rec.From.Parent.Handle)
			objects, sessions := held(t, d)
			require.Equal(t, 1, objects)
			require.Equal(t, 1, sessions)

			// A verifier takes it, and a registry has it certified.
			key, err := tpmattest.ParseKey(k.Info().TPMPublic)
			require.NoError(t, err)
			require.Equal(t, string(tc.alg), key.Algorithm)
			_, err = k.Certify(t.Context(), []byte("nonce"))
			require.NoError(t, err)

			// The files of the tools are not needed any more.
			require.NoError(t, k.Close())
			require.NoError(t, d.Close())
			require.NoError(t, os.RemoveAll(work))
			soft.Restart()
			d = openDevice(t, soft.Device(), Options{Algorithm: tc.alg})
			again := openKey(t, d, KeyOptions{Dir: k.dir})
			requireSigns(t, again, key.Public)
			require.Equal(t, k.Info(), again.Info())
			info, err := ReadKeyInfo(k.dir)
			require.NoError(t, err)
			require.Equal(t, "edge-a", info.Name)
		})
	}
}

func TestKeyThatCannotSignTelemetryIsRefusedByItsAttribute(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	for name, tc := range map[string]struct{ script, detail string }{
		"tools' default rsa":       {makeKey(toolsECC, ``), "decrypt is set"},
		"tools' default ecc":       {makeKey(toolsECC, `-G ecc`), "decrypt is set"},
		"no scheme ecc":            {makeKey(toolsECC, `-G ecc -a '`+signOnly+`'`), "ECC on P-256 with scheme null"},
		"no scheme rsa":            {makeKey(toolsECC, `-G rsa -a '`+signOnly+`'`), "RSA of 2048 bits with scheme null"},
		"rsassa":                   {makeKey(toolsECC, `-G rsa2048:rsassa-sha256:null`), "RSA of 2048 bits with scheme rsassa and SHA-256"},
		"rsapss with sha384":       {makeKey(toolsECC, `-G rsa2048:rsapss-sha384:null`), "scheme rsapss and SHA-384"},
		"p-256 with sha384":        {makeKey(toolsECC, `-G ecc256:ecdsa-sha384`), "ECC on P-256 with scheme ecdsa and SHA-384"},
		"rsa of 3072 bits":         {makeKey(toolsECC, `-G rsa3072:rsapss-sha256:null`), "RSA of 3072 bits"},
		"name of sha384":           {makeKey(toolsECC, `-g sha384 -G ecc256:ecdsa-sha256`), "SHA-256 for the Name"},
		"restricted":               {makeKey(toolsECC, `-G ecc256:ecdsa-sha256:null -a '`+signOnly+`|restricted'`), "restricted is set"},
		"decrypts only":            {makeKey(toolsECC, `-G ecc -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|decrypt'`), "sign is not set"},
		"not fixed":                {makeKey(toolsECC, `-G ecc256:ecdsa-sha256 -a 'sensitivedataorigin|userwithauth|sign'`), "fixedTPM is not set"},
		"policy alone":             {"head -c 32 /dev/zero > pol\n" + makeKey(toolsECC, `-G ecc256:ecdsa-sha256 -L pol`), "userWithAuth is not set"},
		"admin with policy":        {makeKey(toolsECC, `-G ecc256:ecdsa-sha256 -a '`+signOnly+`|adminwithpolicy'`), "adminWithPolicy is set"},
		"imported from a file":     {"openssl ecparam -name prime256v1 -genkey -noout -out ec.pem\n" + toolsECC + "\nflush\ntpm2_import -Q -C p.ctx -G ecc256:ecdsa-sha256 -i ec.pem -u key.pub -r key.priv\nflush", "fixedTPM is not set"},
		"storage key":              {makeKey(toolsECC, `-G ecc256:null:aes128cfb -a '`+srk+`'`), "sign is not set"},
		"keyed hash":               {makeKey(toolsECC, `-G hmac:sha256`), "type 0x0008"},
		"symmetric":                {makeKey(toolsECC, `-G aes128cfb`), "is set"},
		"nothing but duplicatable": {makeKey(toolsECC, `-G ecc256:ecdsa-sha256 -a 'sensitivedataorigin|userwithauth|sign|encryptedduplication'`), "fixedTPM is not set"},
	} {
		t.Run(name, func(t *testing.T) {
			work := t.TempDir()
			soft.Tools(work, tc.script)
			_, err := readBlobs(t, work)
			require.ErrorIs(t, err, ErrUnfit)
			require.ErrorContains(t, err, tc.detail)
			require.ErrorContains(t, err, "has to be enrolled")
			require.Equal(t, Permanent, Classify(err))
		})
	}
}

// The rule is the verifiers': what is taken over here, they accept.
func TestVerifiersAcceptWhatIsImported(t *testing.T) {
	t.Parallel()
	for _, alg := range algorithms {
		base := alg.signingTemplate()
		for bit := range uint(32) {
			t.Run(fmt.Sprintf("%s with bit %d", alg, bit), func(t *testing.T) {
				raw := marshalKey(t, base)
				raw[4+3-bit/8] ^= 1 << (bit % 8)
				o, err := parseObject(raw)
				if err != nil {
					return
				}
				if _, err := o.signsWith(); err == nil {
					_, err := tpmattest.ParseKey(raw)
					require.NoError(t, err)
				}
			})
		}
	}
}

// marshalKey puts a public key into a template.
func marshalKey(t testing.TB, template tpm2.TPMTPublic) []byte {
	t.Helper()
	switch template.Type {
	case tpm2.TPMAlgRSA:
		n := bytes.Repeat([]byte{0xFF}, rsaBits/8)
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: n})
	default:
		params, err := template.Parameters.ECCDetail()
		require.NoError(t, err)
		curve := curves[params.CurveID].Params()
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: curve.Gx.Bytes()}, Y: tpm2.TPM2BECCParameter{Buffer: curve.Gy.Bytes()},
		})
	}
	return tpm2.Marshal(template)
}
