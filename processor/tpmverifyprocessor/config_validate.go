package tpmverifyprocessor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

func oneOf(value string, err error, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%w, not %q", err, value)
}

// validateChoices checks the words.
func (c *Config) validateChoices() error {
	errs := []error{
		oneOf(string(c.Mode), ErrMode, string(ModeEnforce), string(ModeObserve), string(ModeCheck), string(ModeStrip)),
		oneOf(c.Unsigned, ErrUnsigned, UnsignedDrop, UnsignedTag, UnsignedPass),
		oneOf(c.Receipts, ErrReceipts, ReceiptsStrip, ReceiptsKeep),
		oneOf(c.Emit, ErrEmit, EmitAll, EmitRefused),
		oneOf(c.Heartbeats, ErrHeartbeats, "", HeartbeatsPass, HeartbeatsDrop),
		oneOf(c.Enrich.Action, ErrEnrich, EnrichStrip, EnrichPrefix, EnrichRefuse),
	}
	if (c.Enrich.Action == EnrichPrefix) != (c.Enrich.Prefix != "") {
		errs = append(errs, fmt.Errorf("%w: action %q, prefix %q", ErrPrefix, c.Enrich.Action, c.Enrich.Prefix))
	}
	if c.Enrich.Prefix != "" && reachesReserved(c.Enrich.Prefix) {
		errs = append(errs, fmt.Errorf("%w, not with %q", ErrPrefixTaken, c.Enrich.Prefix))
	}
	return errors.Join(errs...)
}

// reachesReserved reports whether prefix and some key together can begin with
// "telemark" in any case: "tele" and "mark.verdict" would. Folding is that of
// Unicode, which knows a second k.
func reachesReserved(prefix string) bool {
	want := []rune("telemark")
	got := []rune(prefix)
	n := min(len(got), len(want))
	return strings.EqualFold(string(got[:n]), string(want[:n]))
}

func (c *Config) validateBounds() error {
	var errs []error
	if c.Park.MaxBytes <= 0 {
		errs = append(errs, fmt.Errorf("%w, not %d", ErrParkBytes, c.Park.MaxBytes))
	}
	if c.Park.Wait <= 0 {
		errs = append(errs, fmt.Errorf("%w, not %v", ErrParkWait, c.Park.Wait))
	}
	if c.InFlightWait < 0 || c.InFlightWait > maxInFlightWait {
		errs = append(errs, fmt.Errorf("%w, not %v", ErrInFlightWait, c.InFlightWait))
	}
	if c.RefusalLog.Burst < 0 {
		errs = append(errs, fmt.Errorf("%w, not %d", ErrLogBurst, c.RefusalLog.Burst))
	}
	if c.RefusalLog.Interval <= 0 {
		errs = append(errs, fmt.Errorf("%w, not %v", ErrLogInterval, c.RefusalLog.Interval))
	}
	if len(c.Scope) > maxScope {
		errs = append(errs, fmt.Errorf("%w, not %d", ErrScope, len(c.Scope)))
	}
	return errors.Join(errs...)
}

// validateModes checks what goes with which mode.
func (c *Config) validateModes() error {
	var errs []error
	addsNothing := c.Mode == ModeCheck || c.Mode == ModeStrip
	switch {
	case addsNothing && c.Unsigned == UnsignedTag:
		errs = append(errs, ErrCheckTag)
	case !addsNothing && c.Unsigned != UnsignedDrop && !c.Attributes.Verdict:
		errs = append(errs, ErrUnsignedTag)
	}
	if c.Mode == ModeStrip && c.Receipts == ReceiptsKeep {
		errs = append(errs, ErrStripKeep)
	}
	if c.Mode == ModeCheck && c.Heartbeats == HeartbeatsDrop {
		errs = append(errs, ErrCheckBeats)
	}
	if c.Mode == ModeObserve && !c.Attributes.Verdict {
		errs = append(errs, ErrObserve)
	}
	if c.Emit == EmitRefused && c.Mode != ModeObserve {
		errs = append(errs, ErrEmitMode)
	}
	if c.Emit == EmitRefused && c.Unsigned != UnsignedDrop {
		errs = append(errs, ErrEmitUnsigned)
	}
	return errors.Join(errs...)
}
