package tdx

// What the fuzz targets read without a signature.
var (
	ReadTCBInfo    = func(b []byte) (any, error) { return readTCBInfo(b) }
	ReadQEIdentity = func(b []byte) (any, error) { return readQEIdentity(b) }
)

// Brief is what two readers of TCB information have to agree on.
type Brief struct {
	Number  uint64
	FMSPC   string
	Status  []string
	SGX     [][16]uint8
	PCESVN  []uint16
	Modules []string
}

// BriefOf reads TCB information.
func BriefOf(b []byte) (*Brief, error) {
	t, err := readTCBInfo(b)
	if err != nil {
		return nil, err
	}
	out := &Brief{Number: t.number, FMSPC: hexOf(t.fmspc)}
	for _, l := range t.levels {
		out.Status = append(out.Status, l.status.String())
		out.SGX = append(out.SGX, l.sgx)
		out.PCESVN = append(out.PCESVN, l.pceSVN)
	}
	for _, m := range t.modules {
		out.Modules = append(out.Modules, m.id)
	}
	return out, nil
}
