package tpm

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Properties describe a TPM, for status pages.
type Properties struct {
	Manufacturer    string        // four letters of the TCG vendor id registry: "IBM", "INTC"
	Vendor          string        // the vendor's own string
	Firmware        string        // version 1 and 2, as four numbers
	SpecRevision    string        // of the library specification: "1.59"
	InLockout       bool          // dictionary attack protection refuses authorisations
	LockoutCounter  uint32        // failed authorisations counted
	MaxAuthFail     uint32        // how many of them lock the TPM
	LockoutInterval time.Duration // until the counter falls by one
	LockoutRecovery time.Duration // until the lockout authorisation may be used after it failed
}

// inLockout is bit 9 of TPMA_PERMANENT (part 2, section 8.6).
const inLockout = 1 << 9

// Properties asks the TPM who it is. Part 3, section 30.2, TPM2_GetCapability.
func (d *Device) Properties(ctx context.Context) (Properties, error) {
	return ask(ctx, d, "reading the TPM's properties", func(l *link) (p Properties, err error) {
		fixed, err := l.properties(tpm2.TPMPTFamilyIndicator, 64)
		if err != nil {
			return p, err
		}
		variable, err := l.properties(tpm2.TPMPTPermanent, 64)
		if err != nil {
			return p, err
		}
		v1, v2 := fixed[tpm2.TPMPTFirmwareVersion1], fixed[tpm2.TPMPTFirmwareVersion2]
		revision := fixed[tpm2.TPMPTRevision]
		return Properties{
			Manufacturer: letters(fixed[tpm2.TPMPTManufacturer]),
			Vendor: letters(fixed[tpm2.TPMPTVendorString1], fixed[tpm2.TPMPTVendorString2],
				fixed[tpm2.TPMPTVendorString3], fixed[tpm2.TPMPTVendorString4]),
			Firmware:        fmt.Sprintf("%d.%d.%d.%d", v1>>16, v1&0xFFFF, v2>>16, v2&0xFFFF),
			SpecRevision:    fmt.Sprintf("%d.%02d", revision/100, revision%100),
			InLockout:       variable[tpm2.TPMPTPermanent]&inLockout != 0,
			LockoutCounter:  variable[tpm2.TPMPTLockoutCounter],
			MaxAuthFail:     variable[tpm2.TPMPTMaxAuthFail],
			LockoutInterval: time.Duration(variable[tpm2.TPMPTLockoutInterval]) * time.Second,
			LockoutRecovery: time.Duration(variable[tpm2.TPMPTLockoutRecovery]) * time.Second,
		}, nil
	})
}

// letters decodes properties that hold four characters each. What does not
// print is left out: it ends up on a status page.
func letters(values ...uint32) string {
	var b []byte
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(b)))
}

// Clock is TPMS_TIME_INFO (part 2, section 10.11.6). Clock can fall after a
// loss of power; Safe says whether it has not. All four together order events.
type Clock struct {
	Time         time.Duration // since the TPM was powered
	Clock        time.Duration // powered time since the TPM was made or cleared
	ResetCount   uint32
	RestartCount uint32
	Safe         bool
}

// Clock reads the TPM's clock. Part 3, section 29.1, TPM2_ReadClock.
func (d *Device) Clock(ctx context.Context) (Clock, error) {
	return ask(ctx, d, "reading the TPM's clock", func(l *link) (c Clock, err error) {
		rsp, err := exec(l, tpm2.ReadClock{})
		if err != nil {
			return c, err
		}
		info := rsp.CurrentTime.ClockInfo
		return Clock{
			Time:         milliseconds(rsp.CurrentTime.Time),
			Clock:        milliseconds(info.Clock),
			ResetCount:   info.ResetCount,
			RestartCount: info.RestartCount,
			Safe:         bool(info.Safe),
		}, nil
	})
}

// milliseconds bounds what a TPM says to what a Duration can hold.
func milliseconds(ms uint64) time.Duration {
	const longest = uint64(1<<63-1) / uint64(time.Millisecond)
	return time.Duration(min(ms, longest)) * time.Millisecond // bounded on this line
}
