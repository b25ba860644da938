package tpmverifyprocessor

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/telemark-otel/telemark/internal/policy"
)

// Mode says what becomes of the blocks.
type Mode string

// The modes.
const (
	ModeEnforce Mode = "enforce" // refused blocks are dropped
	ModeObserve Mode = "observe" // everything passes, with its verdict
	ModeCheck   Mode = "check"   // judged only: nothing is claimed, changed or added; refused blocks are dropped
	ModeStrip   Mode = "strip"   // nothing is judged: receipts and manifests are taken off
)

// Values of the smaller choices.
const (
	UnsignedDrop = "drop"
	UnsignedTag  = "tag"
	UnsignedPass = "pass"

	ReceiptsStrip = "strip"
	ReceiptsKeep  = "keep"

	EmitAll     = "all"
	EmitRefused = "refused"

	EnrichStrip  = "strip"
	EnrichPrefix = "prefix"
	EnrichRefuse = "refuse"

	HeartbeatsPass = "pass"
	HeartbeatsDrop = "drop"
)

// Config of the processor. Its zero value is not usable; createDefaultConfig
// holds the defaults.
type Config struct {
	Mode Mode `mapstructure:"mode"`

	// Nonce is the id of the nonce extension; the only one when not set.
	// Modes check and strip do without.
	Nonce *component.ID `mapstructure:"nonce"`

	// Keys says which keys are trusted: exactly one of its file and registry.
	Keys KeysConfig `mapstructure:"keys"`

	// Unsigned says what becomes of blocks without receipt: drop, tag or pass.
	Unsigned string `mapstructure:"unsigned"`
	// Receipts says whether verified blocks keep their proof: strip or keep.
	Receipts string `mapstructure:"receipts"`
	// Emit says, in mode observe, what goes on: all, or only what was refused.
	Emit string `mapstructure:"emit"`
	// Heartbeats says whether heartbeats and farewells go on: pass or drop;
	// when empty, they pass where receipts are kept.
	Heartbeats string `mapstructure:"heartbeats"`

	// Bind ties resource attributes to the key: {attribute: name | label:KEY}.
	Bind map[string]string `mapstructure:"bind"`
	// BindRequired are those bound attributes that every resource must have.
	BindRequired []string        `mapstructure:"bind_required"`
	Freshness    FreshnessConfig `mapstructure:"freshness"`
	// RequireEvidence says what must be known of a key's TPM: genuine, or any.
	RequireEvidence string `mapstructure:"require_evidence"`
	// Location is the location policy, none when nil.
	Location *LocationConfig `mapstructure:"location"`
	// Regions are named areas that location policies may refer to, here, in the
	// key file or in the registry: {name: path of a GeoJSON file}. They are read
	// at the start.
	Regions map[string]string `mapstructure:"regions"`
	// RegionsDir is a folder of further ones, each called as its file without
	// .geojson or .json.
	RegionsDir string `mapstructure:"regions_dir"`

	Enrich EnrichConfig `mapstructure:"enrich"`

	Attributes AttributesConfig `mapstructure:"attributes"`

	// Scope names the replay windows; component id and signal when empty.
	Scope string `mapstructure:"scope"`

	Park ParkConfig `mapstructure:"park"`
	// InFlightWait is how long a request waits for another one that is
	// delivering the same block, before it is answered as retryable. 0 does
	// not wait; at most a minute.
	InFlightWait time.Duration `mapstructure:"in_flight_wait"`

	RefusalLog RefusalLogConfig `mapstructure:"refusal_log"`
}

// FreshnessConfig is the default freshness policy.
type FreshnessConfig struct {
	// Require is the least that is accepted: live, stale or sequence.
	Require string `mapstructure:"require"`
	// LiveWithin is the age of a nonce up to which it is live; above 0.
	LiveWithin time.Duration `mapstructure:"live_within"`
}

// EnrichConfig says what becomes of resource attributes that were added on the
// way, where the signer tolerates that.
type EnrichConfig struct {
	// Action is strip, prefix or refuse.
	Action string `mapstructure:"action"`
	// Prefix goes in front of their keys with action prefix.
	Prefix string `mapstructure:"prefix"`
}

// AttributesConfig says which resource attributes are added to what goes on.
// telemark.redelivery is always added where it applies.
type AttributesConfig struct {
	Verdict   bool `mapstructure:"verdict"`   // telemark.verdict: verified or a reason
	Name      bool `mapstructure:"name"`      // telemark.name: of the machine, verified blocks only
	ID        bool `mapstructure:"id"`        // telemark.id: kid/epoch/stream/n; one value per block
	KID       bool `mapstructure:"kid"`       // telemark.kid
	Freshness bool `mapstructure:"freshness"` // telemark.freshness: live, stale or sequence
	Location  bool `mapstructure:"location"`  // telemark.location, .source, .accuracy
}

// ParkConfig bounds what waits for a source of keys that does not answer.
type ParkConfig struct {
	// Storage is the id of a storage extension. Without one nothing is parked
	// and such requests are answered as retryable.
	Storage *component.ID `mapstructure:"storage"`
	// MaxBytes bounds what is parked; above 0.
	MaxBytes int64 `mapstructure:"max_bytes"`
	// Wait is how long a block is parked at most; above 0.
	Wait time.Duration `mapstructure:"wait"`
}

// RefusalLogConfig samples the log lines of refused blocks, for each reason.
type RefusalLogConfig struct {
	// Burst is how many lines are written at once; 0 writes none.
	Burst int `mapstructure:"burst"`
	// Interval is the time after which a further line is written; above 0.
	Interval time.Duration `mapstructure:"interval"`
}

// Errors of Validate, one for each rule.
var (
	ErrMode         = errors.New("mode must be enforce, observe, check or strip")
	ErrUnsigned     = errors.New("unsigned must be drop, tag or pass")
	ErrUnsignedTag  = errors.New("unsigned: tag and pass need attributes::verdict, or verified data could not be told from unsigned data")
	ErrCheckTag     = errors.New("unsigned: tag does not go with modes check and strip, which add nothing; take drop or pass")
	ErrReceipts     = errors.New("receipts must be strip or keep")
	ErrStripKeep    = errors.New("receipts: keep does not go with mode strip, which takes them off")
	ErrEmit         = errors.New("emit must be all or refused")
	ErrEmitMode     = errors.New("emit: refused needs mode observe, in every other mode refused blocks do not go on")
	ErrEmitUnsigned = errors.New("emit: refused needs unsigned: drop, or data without a receipt would be neither refused nor handed on")
	ErrHeartbeats   = errors.New("heartbeats must be pass or drop, or absent")
	ErrCheckBeats   = errors.New("heartbeats: drop does not go with mode check: the verifier behind it would see gaps")
	ErrObserve      = errors.New("mode observe needs attributes::verdict, or refused data could not be told from verified data")
	ErrBind         = errors.New("bind must tie attributes to name or to label:KEY")
	ErrBindRequired = errors.New("bind_required must name attributes of bind")
	ErrEvidence     = errors.New("require_evidence must be genuine or any")
	ErrRequire      = errors.New("freshness::require must be live, stale or sequence")
	ErrLiveWithin   = errors.New("freshness::live_within must be above 0")
	ErrEnrich       = errors.New("enrich::action must be strip, prefix or refuse")
	ErrPrefix       = errors.New("enrich::prefix must stand there with action prefix, and only then")
	ErrPrefixTaken  = errors.New("enrich::prefix could make an attribute under the reserved prefix telemark; begin it with another word")
	ErrParkBytes    = errors.New("park::max_bytes must be above 0")
	ErrParkWait     = errors.New("park::wait must be above 0")
	ErrInFlightWait = errors.New("in_flight_wait must be 0 to 1m")
	ErrLogBurst     = errors.New("refusal_log::burst must be 0 (no lines) or more")
	ErrLogInterval  = errors.New("refusal_log::interval must be above 0")
	ErrScope        = fmt.Errorf("scope has at most %d bytes", maxScope)
)

const (
	maxScope        = 256
	maxInFlightWait = time.Minute
)

// Validate checks every rule and names all that are broken.
func (c *Config) Validate() error {
	_, policyErr := c.policy(policy.AnyRegions()) // files are read at the start
	err := errors.Join(c.validateChoices(), c.validateBounds(), c.validateModes(), policyErr)
	if c.Mode == ModeStrip {
		return err
	}
	return errors.Join(err, c.Keys.validate())
}

// policy is what is demanded of keys that do not say otherwise.
func (c *Config) policy(named *policy.Regions) (*policy.Policy, error) {
	p := &policy.Policy{LiveWithin: c.Freshness.LiveWithin, Regions: named}
	var errs []error
	var err error
	if _, err = policy.ParseBind(c.Bind, nil); err != nil {
		errs = append(errs, fmt.Errorf("%w: %w", ErrBind, err))
	} else if p.Bind, err = policy.ParseBind(c.Bind, c.BindRequired); err != nil {
		errs = append(errs, fmt.Errorf("%w: %w", ErrBindRequired, err))
	}
	if p.Freshness, err = policy.ParseFreshness(c.Freshness.Require); err != nil {
		errs = append(errs, fmt.Errorf("%w, not %q", ErrRequire, c.Freshness.Require))
	}
	if p.Genuine, err = policy.ParseRequireEvidence(c.RequireEvidence); err != nil {
		errs = append(errs, fmt.Errorf("%w, not %.64q", ErrEvidence, c.RequireEvidence))
	}
	if c.Freshness.LiveWithin <= 0 {
		errs = append(errs, fmt.Errorf("%w, not %v", ErrLiveWithin, c.Freshness.LiveWithin))
	}
	if c.Location != nil {
		p.Location, err = c.Location.policy(named)
		errs = append(errs, err)
	}
	return p, errors.Join(errs...)
}

func (c *Config) dropsHeartbeats() bool {
	if c.Heartbeats != "" {
		return c.Heartbeats == HeartbeatsDrop
	}
	return c.Mode == ModeStrip || c.Mode != ModeCheck && c.Receipts == ReceiptsStrip
}
