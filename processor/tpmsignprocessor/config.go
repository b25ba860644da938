package tpmsignprocessor

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"

	"github.com/telemark-otel/telemark/internal/block"
)

// Bounds of the configuration.
const (
	// maxStreamBase leaves room in a stream's name for ":metrics" and for the
	// number that tells two instances of one name apart ("#2" and so on).
	maxStreamBase = block.MaxStreamLen - len(":metrics") - len("#999")

	maxMaxBlockItems  = 1 << 16
	minHeartbeat      = time.Second
	minPendingBytes   = 1 << 20
	minPendingWait    = time.Millisecond
	maxPendingWait    = 10 * time.Minute
	tolerationSplit   = "split"
	tolerationEnrich  = "enrich"
	tolerationsWanted = "split, enrich"

	copyAuto  = "auto"
	copyNever = "never"
)

// Errors of the configuration, one per rule. Each names the YAML key.
var (
	errTolerateUnknown = errors.New("`tolerate` may hold split and enrich only")
	errTolerateTwice   = errors.New("`tolerate` names the same tolerance twice")
	errStream          = errors.New("`stream` cannot name a stream")
	errMaxBlockItems   = errors.New("`max_block_items` is out of bounds")
	errHeartbeat       = errors.New("`heartbeat::interval` is out of bounds")
	errMaxBytes        = errors.New("`pending::max_bytes` is too small")
	errMaxBlocks       = errors.New("`pending::max_blocks` is negative")
	errWait            = errors.New("`pending::wait` is out of bounds")
	errCopy            = errors.New("`pending::copy` is unknown")
)

// Config configures the tpmsign processor. The zero value of every field but
// those that say otherwise is not its default; see createDefaultConfig.
type Config struct {
	// TPM is the tpm extension that signs. Without it the only extension of
	// type tpm is taken.
	TPM *component.ID `mapstructure:"tpm"`

	// Stream is the first part of the streams' names; the second is the
	// signal: "edge-a" gives "edge-a:metrics". Empty: the id of the processor.
	// At most 52 bytes of printable ASCII.
	Stream string `mapstructure:"stream"`

	// Tolerate lists the changes that a gateway may make: split, enrich.
	// Empty: none.
	Tolerate []string `mapstructure:"tolerate"`

	// Coalesce merges the blocks of one request that have equal resources
	// before they are signed.
	Coalesce bool `mapstructure:"coalesce"`

	// MaxBlockItems cuts larger blocks before they are signed, in items.
	// 0: no bound. At most 65536.
	MaxBlockItems int `mapstructure:"max_block_items"`

	// Heartbeat makes silence speak.
	Heartbeat HeartbeatConfig `mapstructure:"heartbeat"`

	// Pending holds what is accepted and cannot be handed on at once.
	Pending PendingConfig `mapstructure:"pending"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// HeartbeatConfig says when an idle stream speaks.
type HeartbeatConfig struct {
	// Interval is the time without a block after which a stream sends a
	// heartbeat. 0: neither heartbeats nor a farewell. At least 1s.
	Interval time.Duration `mapstructure:"interval"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// PendingConfig bounds and places the pending store.
type PendingConfig struct {
	// Storage is the storage extension that holds pending blocks. Empty: they
	// are in memory and do not survive a restart.
	Storage *component.ID `mapstructure:"storage"`

	// MaxBytes bounds the pending blocks of a stream, in bytes of protobuf.
	// At least 1 MiB.
	MaxBytes int64 `mapstructure:"max_bytes"`

	// MaxBlocks bounds the pending blocks of a stream. 0: no bound but
	// MaxBytes.
	MaxBlocks int `mapstructure:"max_blocks"`

	// Wait is how long a request waits for its signature before it goes into
	// the pending store. Between 1ms and 10m.
	Wait time.Duration `mapstructure:"wait"`

	// Copy says when a signed request is copied before it is handed on, so that
	// it can be kept should the next component refuse it for now: "auto", when
	// that component says that it changes data, or "never".
	Copy string `mapstructure:"copy"`

	// prevent unkeyed literal initialization
	_ struct{}
}

var _ confmap.Validator = (*Config)(nil)

// Validate checks the configuration; each error names the key and the way out.
func (c *Config) Validate() error {
	var errs []error
	if _, err := c.tolerances(); err != nil {
		errs = append(errs, err)
	}
	if c.Stream != "" {
		if err := checkStreamBase(c.Stream); err != nil {
			errs = append(errs, err)
		}
	}
	if c.MaxBlockItems < 0 || c.MaxBlockItems > maxMaxBlockItems {
		errs = append(errs, fmt.Errorf("%w: %d, want 0 (no bound) to %d", errMaxBlockItems, c.MaxBlockItems, maxMaxBlockItems))
	}
	if i := c.Heartbeat.Interval; i != 0 && i < minHeartbeat {
		errs = append(errs, fmt.Errorf("%w: %v, want 0 (off) or at least %v", errHeartbeat, i, minHeartbeat))
	}
	if c.Pending.MaxBytes < minPendingBytes {
		errs = append(errs, fmt.Errorf("%w: %d, want at least %d", errMaxBytes, c.Pending.MaxBytes, minPendingBytes))
	}
	if c.Pending.MaxBlocks < 0 {
		errs = append(errs, fmt.Errorf("%w: %d, want 0 (no bound but `pending::max_bytes`) or more", errMaxBlocks, c.Pending.MaxBlocks))
	}
	if w := c.Pending.Wait; w < minPendingWait || w > maxPendingWait {
		errs = append(errs, fmt.Errorf("%w: %v, want %v to %v, several times what the TPM takes for a signature", errWait, w, minPendingWait, maxPendingWait))
	}
	if c.Pending.Copy != copyAuto && c.Pending.Copy != copyNever {
		errs = append(errs, fmt.Errorf("%w: %q, want %s or %s", errCopy, c.Pending.Copy, copyAuto, copyNever))
	}
	return errors.Join(errs...)
}

// tolerances returns what Tolerate says as the byte that is signed.
func (c *Config) tolerances() (block.Tolerance, error) {
	var t block.Tolerance
	for i, name := range c.Tolerate {
		if slices.Contains(c.Tolerate[:i], name) {
			return 0, fmt.Errorf("%w: %q", errTolerateTwice, name)
		}
		switch name {
		case tolerationSplit:
			t |= block.Split
		case tolerationEnrich:
			t |= block.Enrich
		default:
			return 0, fmt.Errorf("%w: %q, want any of %s", errTolerateUnknown, name, tolerationsWanted)
		}
	}
	return t, nil
}

func checkStreamBase(base string) error {
	if len(base) > maxStreamBase {
		return fmt.Errorf("%w: %q has %d bytes, at most %d are allowed", errStream, base, len(base), maxStreamBase)
	}
	if err := block.CheckStream(base); err != nil {
		return fmt.Errorf("%w: %w", errStream, err)
	}
	return nil
}

// streamName returns the name of the stream of one signal.
func (c *Config) streamName(id component.ID, signal block.Signal) (string, error) {
	base := c.Stream
	if base == "" {
		base = id.String()
		if err := checkStreamBase(base); err != nil {
			return "", fmt.Errorf("the id of this processor does not fit, set `stream`: %w", err)
		}
	}
	return base + ":" + signal.String(), nil
}
