package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/collector/confmap"

	"github.com/telemark-otel/telemark/internal/location"
	"github.com/telemark-otel/telemark/internal/receipt"
)

const (
	locationShowLong = `Say what an agent's source of location knows now, and what of it would be
claimed: of a collector's configuration (the tpm extension in it), of a gpsd, or
of a position file. Nothing is signed. Exit code 1 says that nothing is known.`

	locationShowExample = `  telemark location show --config /etc/telemark/agent.yaml
  telemark location show --gpsd localhost:2947 --precision coarse
  telemark location show --file /run/modem/position.json --output json`
)

func newLocation() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "location",
		Short:   "Look at an agent's source of location",
		Example: locationShowExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newLocationShow())
	return cmd
}

// locationFlags are those of location show.
type locationFlags struct {
	configs                       []string
	extension                     string
	gpsd, device, file, precision string
	maxAge, wait                  time.Duration
}

func newLocationShow() *cobra.Command {
	var f locationFlags
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Say what the source knows now",
		Long:    locationShowLong,
		Example: locationShowExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options(cmd)
			if err != nil {
				return err
			}
			return showLocation(cmd, o, f.wait)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.configs, "config", nil, "configuration of a collector; several are merged")
	flags.StringVar(&f.extension, "extension", "", "which tpm extension of it, when there are several")
	flags.StringVar(&f.gpsd, "gpsd", "", "a gpsd, HOST:PORT")
	flags.StringVar(&f.device, "device", "", "which receiver of gpsd, all when empty")
	flags.StringVar(&f.file, "file", "", "a position file")
	flags.StringVar(&f.precision, "precision", "", "exact, coarse or none; of the configuration, else exact")
	flags.DurationVar(&f.maxAge, "max-age", location.DefaultMaxAge, "how old a fix may be, with --gpsd and --file")
	flags.DurationVar(&f.wait, "wait", 10*time.Second, "how long to wait for a fix")
	cmd.MarkFlagsMutuallyExclusive("config", "gpsd", "file")
	cmd.MarkFlagsOneRequired("config", "gpsd", "file")
	return cmd
}

func (f *locationFlags) options(cmd *cobra.Command) (location.Options, error) {
	var o location.Options
	switch {
	case len(f.configs) > 0:
		config, err := resolve(cmd.Context(), f.configs)
		if err != nil {
			return o, work(fmt.Errorf("reading the configuration as the collector does: %w", err))
		}
		if o, err = locationOf(config, f.extension); err != nil {
			return o, work(err)
		}
	case f.gpsd != "":
		o.GPSD = &location.GPSDOptions{Endpoint: f.gpsd, Device: f.device, MaxAge: f.maxAge}
	default:
		path, err := filepath.Abs(f.file)
		if err != nil {
			return o, work(err)
		}
		o.File = &location.FileOptions{Path: path, MaxAge: f.maxAge, Poll: location.DefaultPoll}
	}
	if f.precision != "" {
		o.Precision = location.Precision(f.precision)
	}
	return o, nil
}

// configuredLocation is the section location of the tpm extension.
type configuredLocation struct {
	Static *struct {
		Latitude  *float64 `mapstructure:"latitude"`
		Longitude *float64 `mapstructure:"longitude"`
		Altitude  *float64 `mapstructure:"altitude"`
		Accuracy  *float64 `mapstructure:"accuracy"`
	} `mapstructure:"static"`
	GPSD *struct {
		Endpoint string        `mapstructure:"endpoint"`
		Device   string        `mapstructure:"device"`
		MaxAge   time.Duration `mapstructure:"max_age"`
	} `mapstructure:"gpsd"`
	File *struct {
		Path         string        `mapstructure:"path"`
		MaxAge       time.Duration `mapstructure:"max_age"`
		PollInterval time.Duration `mapstructure:"poll_interval"`
	} `mapstructure:"file"`
	Precision string `mapstructure:"precision"`
}

// locationOf finds the section in a configuration.
func locationOf(config map[string]any, extension string) (location.Options, error) {
	extensions, _ := config["extensions"].(map[string]any)
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(extensions)) {
		if kind, _, _ := strings.Cut(id, "/"); kind == "tpm" && (extension == "" || extension == id) {
			ids = append(ids, id)
		}
	}
	switch len(ids) {
	case 0:
		return location.Options{}, errors.New("there is no tpm extension in the configuration")
	case 1:
	default:
		return location.Options{}, fmt.Errorf("there are several tpm extensions, name one with --extension: %s", strings.Join(ids, ", "))
	}
	tpm, _ := extensions[ids[0]].(map[string]any)
	section, _ := tpm["location"].(map[string]any)
	for _, source := range []string{"gpsd", "file"} { // "gpsd:" alone takes its defaults
		if v, there := section[source]; there && v == nil {
			section[source] = map[string]any{}
		}
	}
	var c configuredLocation
	if err := confmap.NewFromStringMap(section).Unmarshal(&c); err != nil {
		return location.Options{}, fmt.Errorf("extensions::%s::location: %w", ids[0], err)
	}
	return c.options(), nil
}

func (c *configuredLocation) options() location.Options {
	o := location.Options{Precision: location.Precision(c.Precision)}
	if s := c.Static; s != nil {
		o.Static = &location.StaticOptions{Latitude: s.Latitude, Longitude: s.Longitude, Altitude: s.Altitude, Accuracy: s.Accuracy}
	}
	or := func(d, otherwise time.Duration) time.Duration {
		if d == 0 {
			return otherwise
		}
		return d
	}
	if g := c.GPSD; g != nil {
		o.GPSD = &location.GPSDOptions{Endpoint: g.Endpoint, Device: g.Device, MaxAge: or(g.MaxAge, location.DefaultMaxAge)}
		if g.Endpoint == "" {
			o.GPSD.Endpoint = location.DefaultEndpoint
		}
	}
	if f := c.File; f != nil {
		o.File = &location.FileOptions{Path: f.Path, MaxAge: or(f.MaxAge, location.DefaultMaxAge), Poll: or(f.PollInterval, location.DefaultPoll)}
	}
	return o
}

// locationAnswer is printed.
type locationAnswer struct {
	Known   bool   `json:"known"`
	Problem string `json:"problem,omitempty"`

	Latitude  *float64 `json:"latitude,omitempty"`
	Longitude *float64 `json:"longitude,omitempty"`
	Altitude  *float64 `json:"altitude,omitempty"` // metres
	Accuracy  *float64 `json:"accuracy,omitempty"` // metres
	Source    string   `json:"source,omitempty"`
	Time      string   `json:"time,omitempty"` // of the fix
	Age       *int64   `json:"age,omitempty"`  // seconds
	Precision string   `json:"precision"`

	Receiver       string `json:"receiver,omitempty"`
	Quality        string `json:"quality,omitempty"`
	SatellitesUsed *int   `json:"satellites_used,omitempty"`
	SatellitesSeen *int   `json:"satellites_seen,omitempty"`
}

func showLocation(cmd *cobra.Command, o location.Options, wait time.Duration) error {
	source, live, err := location.New(o)
	if err != nil {
		return work(err)
	}
	precision, err := location.ParsePrecision(string(o.Precision))
	if err != nil {
		return work(err)
	}
	out := locationAnswer{Precision: string(precision)}
	switch {
	case source == nil && precision == location.PrecisionNone:
		out.Problem = "the precision is none: no location is claimed"
	case source == nil:
		out.Problem = "no source of location is configured"
	default:
		out.fill(askLocation(cmd.Context(), source, live, wait))
	}
	if err := show(cmd, out, func(w io.Writer) { sayLocation(w, &out) }); err != nil {
		return err
	}
	if !out.Known {
		return errFound
	}
	return nil
}

// askLocation runs a source until it knows something, but no longer than wait;
// then, where it counts satellites, until it has.
func askLocation(ctx context.Context, source location.Source, live location.Live, wait time.Duration) (*receipt.Location, location.Status) {
	if live == nil {
		return source.Location(time.Now()), location.Status{Used: -1, Seen: -1}
	}
	run, stop := context.WithTimeout(ctx, wait)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		live.Run(run)
	}()
	defer func() { stop(); <-ended }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		now := time.Now()
		if l := source.Location(now); l != nil {
			return l, live.Status(now)
		}
		select {
		case <-run.Done():
			return nil, live.Status(now)
		case <-tick.C:
		}
	}
}

func (a *locationAnswer) fill(l *receipt.Location, s location.Status) {
	a.Receiver, a.Quality, a.Problem = s.Receiver, s.Quality, s.Problem
	if s.Used >= 0 {
		a.SatellitesUsed = &s.Used
	}
	if s.Seen >= 0 {
		a.SatellitesSeen = &s.Seen
	}
	if l == nil {
		return
	}
	a.Known, a.Source = true, l.Source
	a.Latitude, a.Longitude, a.Altitude, a.Accuracy, a.Age = &l.Latitude, &l.Longitude, l.Altitude, l.Accuracy, l.Age
	if l.Timestamp != nil {
		a.Time = time.Unix(*l.Timestamp, 0).UTC().Format(time.RFC3339)
	}
}

func sayLocation(w io.Writer, a *locationAnswer) {
	if !a.Known {
		say(w, "no location: %s", printable(a.Problem))
		return
	}
	t := newTable(w)
	row := func(name string, value any) { t.AppendRow([]any{name, value}) }
	row("position", fmt.Sprintf("%v, %v", *a.Latitude, *a.Longitude))
	if a.Altitude != nil {
		row("altitude", fmt.Sprintf("%.1f m above the ellipsoid", *a.Altitude))
	}
	if a.Accuracy != nil {
		row("accuracy", metres(*a.Accuracy))
	} else {
		row("accuracy", "unknown")
	}
	row("source", a.Source)
	if a.Age != nil {
		row("fix", fmt.Sprintf("%s, %d s ago", a.Time, *a.Age))
	}
	if a.Receiver != "" {
		row("receiver", printable(strings.TrimSpace(a.Receiver+" "+a.Quality)))
	}
	if a.SatellitesUsed != nil && a.SatellitesSeen != nil {
		row("satellites", fmt.Sprintf("%d used, %d seen", *a.SatellitesUsed, *a.SatellitesSeen))
	}
	row("precision", a.Precision)
	if a.Problem != "" {
		row("problem", printable(a.Problem))
	}
	t.Render()
}
