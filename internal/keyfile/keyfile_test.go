package keyfile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/geo"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/verdict"
)

var defaults = &policy.Policy{Freshness: policy.Stale, LiveWithin: policy.DefaultLiveWithin}

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(t, err)
	return k
}

func pemOf(t *testing.T, k *ecdsa.PrivateKey) string {
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// publicArea is that of a signing key in a TPM.
func publicArea(t *testing.T, k *ecdsa.PrivateKey, change func(*tpm2.TPMTPublic)) (area, kid []byte) {
	point, err := k.PublicKey.Bytes()
	require.NoError(t, err)
	public := tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]},
			Y: tpm2.TPM2BECCParameter{Buffer: point[33:65]},
		}),
	}
	if change != nil {
		change(&public)
	}
	area = tpm2.Marshal(public)
	sum := sha256.Sum256(area)
	return area, append([]byte{0, 0x0b}, sum[:]...)
}

func entry(t *testing.T, name string) Entry {
	k := newKey(t, elliptic.P256())
	area, kid := publicArea(t, k, nil)
	return Entry{
		KID:       hex.EncodeToString(kid),
		Name:      name,
		Algorithm: "ES256",
		PublicKey: pemOf(t, k),
		TPMPublic: area,
	}
}

func marshal(t *testing.T, entries ...Entry) []byte {
	b, err := json.Marshal(File{Keys: entries})
	require.NoError(t, err)
	return b
}

func TestParseReadsWhatEntryWrites(t *testing.T) {
	notBefore, notAfter := time.Unix(1_700_000_000, 0).UTC(), time.Unix(1_800_000_000, 0).UTC()
	yes := true
	e := entry(t, "edge-a")
	e.NotBefore, e.NotAfter = &notBefore, &notAfter
	e.Revoked = verdict.Superseded
	e.Labels = map[string]string{"site": "berlin"}
	e.Bind, e.BindRequired = map[string]string{"host.name": "name", "site": "label:site"}, []string{"site"}
	e.Freshness = "live"
	e.Location = &Location{
		Required: &yes, Sources: []string{"gpsd"}, MaxAge: "10m", MaxAccuracy: 50, Mode: "centre",
		Within: json.RawMessage(`{"type":"Polygon","coordinates":[[[13,52],[14,52],[14,53],[13,52]]]}`),
	}
	plain := entry(t, "edge-b")

	s, err := Parse("keys.json", marshal(t, e, plain), defaults)
	require.NoError(t, err)
	require.Equal(t, 2, s.Len())
	require.Len(t, s.Keys(), 2)

	kid, err := hex.DecodeString(e.KID)
	require.NoError(t, err)
	k, err := s.Lookup(kid)
	require.NoError(t, err)
	require.Equal(t, "edge-a", k.Name)
	require.Equal(t, string(kid), k.KID)
	require.Equal(t, receipt.ES256, k.Algorithm)
	require.Equal(t, notBefore, k.NotBefore)
	require.Equal(t, notAfter, k.NotAfter)
	require.Equal(t, verdict.Superseded, k.Revoked)
	require.Equal(t, policy.Live, k.Policy.Freshness)
	require.Equal(t, policy.DefaultLiveWithin, k.Policy.LiveWithin)
	require.Equal(t, []policy.Binding{{Attribute: "host.name"}, {Attribute: "site", Label: "site", Required: true}}, k.Policy.Bind)
	require.Equal(t, 10*time.Minute, k.Policy.Location.MaxAge)
	require.True(t, k.Policy.Location.Required)
	require.True(t, k.Policy.Location.Within.Contains(geo.Position{Latitude: 52.2, Longitude: 13.8}))

	kid, err = hex.DecodeString(plain.KID)
	require.NoError(t, err)
	k, err = s.Lookup(kid)
	require.NoError(t, err)
	require.Same(t, defaults, k.Policy)

	k, err = s.Lookup(make([]byte, 34))
	require.NoError(t, err)
	require.Nil(t, k)
}

func TestNamesKnowsEnrolledMachinesWhateverTheCase(t *testing.T) {
	e := entry(t, "Edge-A")
	e.Revoked = "stolen" // what pretends to be a revoked machine pretends still
	e.Bind = map[string]string{"host.name": "name", "site": "label:missing"}
	s, err := Parse("keys.json", marshal(t, e), defaults)
	require.NoError(t, err)
	require.True(t, s.Binds("host.name"))
	require.True(t, s.Names("host.name", "edge-a"))
	require.False(t, s.Names("host.name", "edge-b"))
	require.False(t, s.Binds("service.name"))
	require.False(t, s.Binds("site"), "the key has no such label, so nothing names it")
}

func TestLocationIsRequiredUnlessSaidOtherwise(t *testing.T) {
	e := entry(t, "edge-a")
	e.Location = &Location{Sources: []string{"gpsd"}}
	s, err := Parse("keys.json", marshal(t, e), defaults)
	require.NoError(t, err)
	require.True(t, s.Keys()[0].Policy.Location.Required)
}

func TestParseRefusesAndNamesKeyAndWayOut(t *testing.T) {
	p384 := newKey(t, elliptic.P384())
	other := newKey(t, elliptic.P256())
	at := time.Unix(1_700_000_000, 0)
	for name, c := range map[string]struct {
		change func(*Entry)
		want   string
	}{
		"kid not hexadecimal":    {func(e *Entry) { e.KID = "xyz" }, "telemark key show"},
		"kid too short":          {func(e *Entry) { e.KID = e.KID[:10] }, `"kid"`},
		"kid of another hash":    {func(e *Entry) { e.KID = "000c" + e.KID[4:] }, `"kid"`},
		"no name":                {func(e *Entry) { e.Name = "" }, `"name"`},
		"no algorithm":           {func(e *Entry) { e.Algorithm = "" }, "ES256"},
		"unknown algorithm":      {func(e *Entry) { e.Algorithm = "none" }, "ES256"},
		"not PEM":                {func(e *Entry) { e.PublicKey = "AAAA" }, "openssl pkey -pubout"},
		"two PEM blocks":         {func(e *Entry) { e.PublicKey += e.PublicKey }, "only one"},
		"private key":            {func(e *Entry) { e.PublicKey = strings.ReplaceAll(e.PublicKey, "PUBLIC", "PRIVATE") }, "PUBLIC KEY"},
		"wrong curve":            {func(e *Entry) { e.PublicKey = pemOf(t, p384) }, "P-256"},
		"tpm_public of another":  {func(e *Entry) { e.PublicKey = pemOf(t, other) }, "another key"},
		"tpm_public other Name":  {func(e *Entry) { e.KID = e.KID[:66] + "00" }, "Name"},
		"tpm_public trailing":    {func(e *Entry) { e.TPMPublic = append(e.TPMPublic, 0) }, "left over"},
		"tpm_public no area":     {func(e *Entry) { e.TPMPublic = []byte{1, 2, 3} }, "TPMT_PUBLIC"},
		"tpm_public huge":        {func(e *Entry) { e.TPMPublic = make([]byte, maxTPMPublic+1) }, "at most"},
		"validity turned around": {func(e *Entry) { e.NotBefore, e.NotAfter = &at, &at }, `"not_after"`},
		"superseded without end": {func(e *Entry) { e.Revoked = verdict.Superseded }, `"not_after"`},
		"bind to nothing":        {func(e *Entry) { e.Bind = map[string]string{"host.name": "hostname"} }, `"bind"`},
		"freshness":              {func(e *Entry) { e.Freshness = "new" }, "live, stale or sequence"},
		"evidence":               {func(e *Entry) { e.Evidence = "genuine" }, "chain, vouched or unproven_tpm"},
		"require evidence":       {func(e *Entry) { e.RequireEvidence = "chain" }, `"require_evidence"`},
		"location of nothing":    {func(e *Entry) { no := false; e.Location = &Location{Required: &no} }, "no effect"},
		"location max_age":       {func(e *Entry) { e.Location = &Location{MaxAge: "10"} }, `"max_age"`},
		"location within":        {func(e *Entry) { e.Location = &Location{Within: json.RawMessage(`{"type":"Point"}`)} }, `"within"`},
		"location mode":          {func(e *Entry) { e.Location = &Location{Mode: "near"} }, "strict or centre"},
		"too many labels": {func(e *Entry) {
			e.Labels = map[string]string{}
			for i := range maxLabels + 1 {
				e.Labels[strings.Repeat("x", i+1)] = ""
			}
		}, `"labels"`},
	} {
		t.Run(name, func(t *testing.T) {
			good, bad := entry(t, "edge-a"), entry(t, "edge-b")
			c.change(&bad)
			_, err := Parse("keys.json", marshal(t, good, bad), defaults)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "keys.json")
			require.ErrorContains(t, err, "keys[1]")
		})
	}
}

func TestKeyThatCanLeaveItsTPMIsRefused(t *testing.T) {
	for name, change := range map[string]func(*tpm2.TPMTPublic){
		"not fixed":         func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false },
		"parent not fixed":  func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedParent = false },
		"made elsewhere":    func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SensitiveDataOrigin = false },
		"does not sign":     func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SignEncrypt = false },
		"decrypts too":      func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true },
		"another name hash": func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA384 },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKey(t, elliptic.P256())
			area, kid := publicArea(t, k, change)
			e := Entry{KID: hex.EncodeToString(kid), Name: "edge-a", Algorithm: "ES256", PublicKey: pemOf(t, k), TPMPublic: area}
			_, err := Parse("keys.json", marshal(t, e), defaults)
			require.ErrorContains(t, err, "tpm_public")
		})
	}
}

func TestParseIsStrictJSON(t *testing.T) {
	good := string(marshal(t, entry(t, "edge-a")))
	for name, c := range map[string]struct{ content, want string }{
		"empty":           {"", "JSON"},
		"no keys":         {`{}`, `{"keys":[]}`},
		"null":            {`null`, `{"keys":[]}`},
		"unknown field":   {strings.Replace(good, `"name"`, `"surname":"x","name"`, 1), "surname"},
		"unknown at top":  {`{"keys":[],"key":[]}`, `"key"`},
		"member twice":    {strings.Replace(good, `"name"`, `"name":"edge-z","name"`, 1), "twice"},
		"twice by case":   {strings.Replace(good, `"name"`, `"NAME":"edge-z","name"`, 1), "twice"},
		"twice by long s": {strings.Replace(good, `"keys"`, `"key\u017f":[],"keys"`, 1), "twice"},
		"twice by kelvin": {strings.Replace(good, `"keys"`, `"\u212aeys":[],"keys"`, 1), "twice"},
		"trailing value":  {good + `{"keys":[]}`, "behind its end"},
		"trailing letter": {good + `x`, "behind its end"},
		"truncated":       {good[:len(good)-3], "JSON"},
		"deep":            {`{"keys":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, "nested"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("keys.json", []byte(c.content), defaults)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "keys.json")
		})
	}
}

func TestOneKIDStandsOnce(t *testing.T) {
	a := entry(t, "edge-a")
	b := a
	b.Name, b.KID = "edge-b", strings.ToUpper(a.KID)
	_, err := Parse("keys.json", marshal(t, a, b), defaults)
	require.ErrorContains(t, err, "twice")
	require.ErrorContains(t, err, "keys[1] (edge-b)")
}

func TestParseIsBounded(t *testing.T) {
	_, err := Parse("keys.json", make([]byte, MaxSize+1), defaults)
	require.ErrorIs(t, err, ErrTooLarge)
}

func TestEmptyListTrustsNobody(t *testing.T) {
	s, err := Parse("keys.json", []byte(`{"keys":[]}`), defaults)
	require.NoError(t, err)
	require.Zero(t, s.Len())
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"keys":[]}`))
	f.Add([]byte(`{"keys":[{"kid":"000b","name":"edge-a","alg":"ES256","location":{"within":{"type":"Polygon","coordinates":[[[1,2]]]}}}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		s, err := Parse("keys.json", content, defaults)
		if err != nil {
			return
		}
		for _, k := range s.Keys() {
			got, err := s.Lookup([]byte(k.KID))
			require.NoError(t, err)
			require.Same(t, k, got)
			require.NotNil(t, k.Policy)
			require.NotNil(t, k.Public)
		}
	})
}

// TestWhoWritesAKeyDownVouchesForIt: evidence is claimed by those who have it.
func TestWhoWritesAKeyDownVouchesForIt(t *testing.T) {
	for said, want := range map[string]policy.Evidence{
		"": policy.Vouched, "vouched": policy.Vouched, "chain": policy.Chain, "unproven_tpm": policy.Unproven,
	} {
		e := entry(t, "edge-a")
		e.Evidence = said
		s, err := Parse("keys.json", marshal(t, e), defaults)
		require.NoError(t, err)
		require.Equal(t, want, s.Keys()[0].Evidence, said)
		require.Equal(t, want.Genuine(), said != "unproven_tpm")
	}
	e := entry(t, "edge-a")
	e.RequireEvidence = "genuine"
	s, err := Parse("keys.json", marshal(t, e), defaults)
	require.NoError(t, err)
	require.True(t, s.Keys()[0].Policy.Genuine)
	require.False(t, defaults.Genuine)
	strict := *defaults
	strict.Genuine = true
	e.RequireEvidence = "any"
	s, err = Parse("keys.json", marshal(t, e), &strict)
	require.NoError(t, err)
	require.False(t, s.Keys()[0].Policy.Genuine)
}

func TestEntryAloneIsReadAsStrictly(t *testing.T) {
	good, err := json.Marshal(entry(t, "edge-a"))
	require.NoError(t, err)
	k, err := ParseEntry(good, defaults)
	require.NoError(t, err)
	require.Equal(t, "edge-a", k.Name)
	for name, content := range map[string]string{
		"empty":         "",
		"null":          "null",
		"list":          "[" + string(good) + "]",
		"file":          `{"keys":[` + string(good) + `]}`,
		"unknown":       `{"x":1,` + string(good[1:]),
		"member twice":  `{"name":"edge-b",` + string(good[1:]),
		"twice by case": `{"NAME":"edge-b",` + string(good[1:]),
		"trailing":      string(good) + "{}",
		"too large":     strings.Repeat(" ", MaxEntry) + string(good),
	} {
		_, err := ParseEntry([]byte(content), defaults)
		require.Error(t, err, name)
	}
}

func TestNamesOfAKeyAreThoseItBinds(t *testing.T) {
	e := entry(t, "Edge-A")
	e.Labels = map[string]string{"site": "Berlin"}
	e.Bind = map[string]string{"host.name": "name", "site": "label:site", "rack": "label:rack"}
	s, err := Parse("keys.json", marshal(t, e), defaults)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"host.name": "edge-a", "site": "berlin"}, maps.Collect(NamesOf(s.Keys()[0])))
}
