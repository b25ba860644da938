package tdx

import (
	"errors"
	"fmt"
	"time"
)

// The two documents that Intel signs, as the service answers them:
//
//	{"tcbInfo": {...}, "signature": "128 hex digits"}
//	{"enclaveIdentity": {...}, "signature": "128 hex digits"}
//
// The signature is ECDSA P-256 with SHA-256, r | s, over the member's bytes as
// they stand in the answer.
type envelope struct {
	signed    []byte
	signature []byte
}

func openEnvelope(answer []byte, name string) (*envelope, error) {
	var e envelope
	err := object(
		answer,
		member{name: name, read: func(raw []byte) error { e.signed = raw; return nil }},
		member{name: "signature", read: octets(&e.signature, 64)},
	)
	return &e, err
}

const (
	maxLevels     = 256
	maxModules    = 64
	maxAdvisories = 256
)

// heading is what both documents begin with.
type heading struct {
	issued, next time.Time
	number       uint64 // tcbEvaluationDataNumber
}

func (h *heading) members(id string, version uint64) []member {
	return []member{
		{name: "id", read: equal(id)},
		{name: "version", read: only(version)},
		{name: "issueDate", read: moment(&h.issued)},
		{name: "nextUpdate", read: moment(&h.next)},
		{name: "tcbEvaluationDataNumber", read: number(&h.number)},
	}
}

// tcbInfo is TCB information, version 3, for TDX.
type tcbInfo struct {
	heading
	fmspc, pceID []byte
	module       module   // for modules of major version 0
	modules      []module // by version
	levels       []level
}

// module is who may have made a TDX module, and its patch levels.
type module struct {
	id                         string
	mrSigner, attributes, mask []byte
	levels                     []level
}

// level is a patch level. Levels come newest first.
type level struct {
	sgx, tdx   [16]uint8 // platforms
	pceSVN     uint16
	isvSVN     uint16 // modules and enclaves
	date       time.Time
	status     status
	advisories []string
}

func readTCBInfo(raw []byte) (*tcbInfo, error) {
	t := &tcbInfo{}
	members := append(t.members("TDX", 3),
		member{name: "fmspc", read: octets(&t.fmspc, 6)},
		member{name: "pceId", read: octets(&t.pceID, 2)},
		member{name: "tcbType", read: only(0)},
		member{name: "tdxModule", read: func(raw []byte) error { return object(raw, t.module.members()...) }},
		member{name: "tdxModuleIdentities", optional: true, read: array(maxModules, func(raw []byte) error {
			m := module{}
			err := object(raw, append(m.members(),
				member{name: "id", read: text(&m.id, 32)},
				member{name: "tcbLevels", read: levels(&m.levels, false)},
			)...)
			t.modules = append(t.modules, m)
			return err
		})},
		member{name: "tcbLevels", read: levels(&t.levels, true)},
	)
	if err := object(raw, members...); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, m := range t.modules {
		if seen[m.id] {
			return nil, fmt.Errorf("module %.32q twice", m.id)
		}
		seen[m.id] = true
	}
	return t, nil
}

func (m *module) members() []member {
	return []member{
		{name: "mrsigner", read: octets(&m.mrSigner, 48)},
		{name: "attributes", read: octets(&m.attributes, 8)},
		{name: "attributesMask", read: octets(&m.mask, 8)},
	}
}

// qeIdentity is the identity of the quoting enclave for TDs, version 2.
type qeIdentity struct {
	heading
	miscSelect, miscMask       []byte
	attributes, attributesMask []byte
	mrSigner                   []byte
	product                    uint16
	levels                     []level
}

func readQEIdentity(raw []byte) (*qeIdentity, error) {
	q := &qeIdentity{}
	err := object(raw, append(q.members("TD_QE", 2),
		member{name: "miscselect", read: octets(&q.miscSelect, 4)},
		member{name: "miscselectMask", read: octets(&q.miscMask, 4)},
		member{name: "attributes", read: octets(&q.attributes, 16)},
		member{name: "attributesMask", read: octets(&q.attributesMask, 16)},
		member{name: "mrsigner", read: octets(&q.mrSigner, 32)},
		member{name: "isvprodid", read: number(&q.product)},
		member{name: "tcbLevels", read: levels(&q.levels, false)},
	)...)
	return q, err
}

func levels(to *[]level, platform bool) func([]byte) error {
	list := array(maxLevels, func(raw []byte) error {
		l, err := readLevel(raw, platform)
		*to = append(*to, l)
		return err
	})
	return func(raw []byte) error {
		if err := list(raw); err != nil {
			return err
		}
		if len(*to) == 0 {
			return errors.New("no level")
		}
		return nil
	}
}

func readLevel(raw []byte, platform bool) (level, error) {
	var l level
	tcb := []member{{name: "isvsvn", read: number(&l.isvSVN)}}
	if platform {
		tcb = []member{
			{name: "sgxtcbcomponents", read: components(&l.sgx)},
			{name: "tdxtcbcomponents", read: components(&l.tdx)},
			{name: "pcesvn", read: number(&l.pceSVN)},
		}
	}
	err := object(
		raw,
		member{name: "tcb", read: func(raw []byte) error { return object(raw, tcb...) }},
		member{name: "tcbDate", read: moment(&l.date)},
		member{name: "tcbStatus", read: func(raw []byte) error {
			var s string
			if err := text(&s, 64)(raw); err != nil {
				return err
			}
			var ok bool
			if l.status, ok = statusOf(s); !ok {
				return fmt.Errorf("%.40q is no status", s)
			}
			return nil
		}},
		member{name: "advisoryIDs", optional: true, read: array(maxAdvisories, func(raw []byte) error {
			var s string
			err := text(&s, 64)(raw)
			l.advisories = append(l.advisories, s)
			return err
		})},
	)
	return l, err
}

// components reads the 16 SVNs of a level. Their names are not used.
func components(to *[16]uint8) func([]byte) error {
	return func(raw []byte) error {
		n := 0
		var ignored string
		err := array(16, func(raw []byte) error {
			err := object(
				raw,
				member{name: "svn", read: number(&to[n])},
				member{name: "category", optional: true, read: text(&ignored, 128)},
				member{name: "type", optional: true, read: text(&ignored, 128)},
			)
			n++
			return err
		})(raw)
		if err == nil && n != 16 {
			return fmt.Errorf("%d components in place of 16", n)
		}
		return err
	}
}
