package tpm

import (
	"context"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// DefaultCounterIndex is the NV index of the epoch counter.
const DefaultCounterIndex uint32 = 0x01817E1E

// The NV indices that belong to the owner (TCG Registry of Reserved TPM 2.0
// Handles and Localities, table 3).
const (
	MinCounterIndex uint32 = 0x01800000
	MaxCounterIndex uint32 = 0x01BFFFFF
)

// counterTag stands in the authPolicy of our counter. It is the digest of no
// policy, so it opens nothing; it tells our index from another's.
var counterTag = sha256.Sum256([]byte("telemark-nv-counter-v1\x00"))

func counterTemplate(index uint32) tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{
		NVIndex: tpm2.TPMHandle(index),
		NameAlg: tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{
			NT:         tpm2.TPMNTCounter,
			OwnerWrite: true,
			AuthWrite:  true,
			OwnerRead:  true,
			AuthRead:   true,
			NoDA:       true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: counterTag[:]},
		DataSize:   8,
	}
}

// Increment increments the NV counter at index (0 is [DefaultCounterIndex]),
// which is defined first when it is absent, and returns its value. For one
// index it never returns a value twice, also when the index was deleted in
// between: a new counter starts above all that were deleted. Each call wears
// the TPM's memory; once per start is what it is made for.
func (d *Device) Increment(ctx context.Context, index uint32) (uint64, error) {
	if index == 0 {
		index = DefaultCounterIndex
	}
	if index < MinCounterIndex || index > MaxCounterIndex {
		return 0, fmt.Errorf("NV index %#08x is not between %#08x and %#08x, the range of the owner", index, MinCounterIndex, MaxCounterIndex)
	}
	what := fmt.Sprintf("incrementing the NV counter %#08x", index)
	return ask(ctx, d, what, func(l *link) (uint64, error) { return l.increment(index) })
}

func (l *link) increment(index uint32) (uint64, error) {
	if err := l.defineCounter(index); err != nil {
		return 0, err
	}
	handle, _, err := l.counter(index)
	if err != nil {
		return 0, err
	}
	// Part 3, section 31.8, TPM2_NV_Increment.
	if _, err := exec(l, tpm2.NVIncrement{AuthHandle: handle, NVIndex: named(handle)}); err != nil {
		return 0, err
	}
	if handle, _, err = l.counter(index); err != nil { // the first write changes its Name
		return 0, err
	}
	// Part 3, section 31.13, TPM2_NV_Read.
	rsp, err := exec(l, tpm2.NVRead{AuthHandle: handle, NVIndex: named(handle), Size: 8})
	if err != nil {
		return 0, err
	}
	if len(rsp.Data.Buffer) != 8 {
		return 0, l.breakOff(fmt.Errorf("%w: a counter of %d bytes", ErrMalformed, len(rsp.Data.Buffer)))
	}
	return binary.BigEndian.Uint64(rsp.Data.Buffer), nil
}

// defineCounter defines the counter when the index is free. Part 3, section
// 31.3, TPM2_NV_DefineSpace.
func (l *link) defineCounter(index uint32) error {
	_, exists, err := l.counter(index)
	if err != nil || exists {
		return err
	}
	_, err = exec(l, tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: authSession(l.opts.OwnerAuth)},
		PublicInfo: tpm2.New2B(counterTemplate(index)),
	})
	return err
}

// counter reads the public area of the index and checks that it is ours.
func (l *link) counter(index uint32) (h tpm2.AuthHandle, exists bool, err error) {
	pub, name, err := l.nvPublic(index)
	if err != nil || pub == nil {
		return h, false, err
	}
	want := counterTemplate(index)
	got := *pub
	got.Attributes.Written = false
	if string(tpm2.Marshal(got)) != string(tpm2.Marshal(want)) {
		return h, false, fmt.Errorf("NV index %#08x: %w", index, ErrHandleTaken)
	}
	return tpm2.AuthHandle{Handle: tpm2.TPMHandle(index), Name: name, Auth: tpm2.PasswordAuth(nil)}, true, nil
}

// nvPublic returns the public area of an index, nil when it is not defined.
// Part 3, section 31.6, TPM2_NV_ReadPublic.
func (l *link) nvPublic(index uint32) (*tpm2.TPMSNVPublic, tpm2.TPM2BName, error) {
	rsp, err := exec(l, tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)})
	if isCode(err, tpm2.TPMRCHandle) {
		return nil, tpm2.TPM2BName{}, nil
	}
	if err != nil {
		return nil, tpm2.TPM2BName{}, err
	}
	pub, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, tpm2.TPM2BName{}, l.breakOff(fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	return pub, rsp.NVName, nil
}

func named(h tpm2.AuthHandle) tpm2.NamedHandle {
	return tpm2.NamedHandle{Handle: h.Handle, Name: h.Name}
}

const (
	nvChunk = 512     // what every TPM gives at once
	nvLimit = 8 << 10 // more than any certificate has
)

// nvRead returns the content of an index, nil when it is not defined. Part 3,
// section 31.13, TPM2_NV_Read.
func (l *link) nvRead(index uint32) ([]byte, error) {
	pub, name, err := l.nvPublic(index)
	if err != nil || pub == nil || !pub.Attributes.Written {
		return nil, err
	}
	size := int(pub.DataSize)
	if size > nvLimit {
		return nil, fmt.Errorf("NV index %#08x has %d bytes, at most %d are read", index, size, nvLimit)
	}
	handle := tpm2.AuthHandle{Handle: tpm2.TPMHandle(index), Name: name, Auth: tpm2.PasswordAuth(nil)}
	content := make([]byte, 0, size)
	for len(content) < size {
		rsp, err := exec(l, tpm2.NVRead{
			AuthHandle: handle,
			NVIndex:    named(handle),
			Size:       uint16(min(nvChunk, size-len(content))), // at most nvChunk
			Offset:     uint16(len(content)),                    // below nvLimit
		})
		if err != nil {
			return nil, err
		}
		if n := len(rsp.Data.Buffer); n == 0 || n > size-len(content) {
			return nil, l.breakOff(fmt.Errorf("%w: %d bytes of NV index %#08x", ErrMalformed, n, index))
		}
		content = append(content, rsp.Data.Buffer...)
	}
	return content, nil
}

// firstDER returns the first DER element of content: manufacturers fill the
// rest of the index with zeros or ones.
func firstDER(content []byte) ([]byte, error) {
	var element asn1.RawValue
	if _, err := asn1.Unmarshal(content, &element); err != nil {
		return nil, err
	}
	return element.FullBytes, nil
}
