package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/geo"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/regions"
)

const (
	geofenceLong = `Say whether a position lies in an area, as a verifier would judge it.

FILE is GeoJSON (a Polygon or MultiPolygon, a Feature or FeatureCollection of
them), or a folder of such files, as regions_dir takes it. Latitude and
longitude are in degrees, WGS 84, south and west negative.

With --mode strict the whole circle of --accuracy metres has to be inside, with
centre, the default, the position alone. Exit code 1 says outside.`

	geofenceExample = `  telemark geofence check berlin.geojson 52.52 13.405
  telemark geofence check /etc/telemark/regions -17.7134 178.065 --accuracy 25 --mode strict
  telemark geofence check berlin.geojson 52.52 13.405 --output json`
)

func newGeofence() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "geofence",
		Short:   "Hold positions against areas",
		Example: geofenceExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newGeofenceCheck())
	return cmd
}

func newGeofenceCheck() *cobra.Command {
	var accuracy float64
	var mode string
	cmd := &cobra.Command{
		Use:     "check FILE LATITUDE LONGITUDE",
		Short:   "Say whether a position lies in an area",
		Long:    geofenceLong,
		Example: geofenceExample,
		// A latitude may begin with a minus, which is no flag.
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.DisableFlagParsing = false
			if err := cmd.ParseFlags(coverNumbers(args)); err != nil {
				return err
			}
			if help, err := cmd.Flags().GetBool("help"); err == nil && help {
				return cmd.Help()
			}
			operands := cmd.Flags().Args()
			m, err := policy.ParseMode(mode)
			if err != nil {
				return fmt.Errorf("--mode: %w", err)
			}
			return checkGeofence(cmd, operands, fence{mode: m, accuracy: accuracy, known: cmd.Flags().Changed("accuracy")})
		},
	}
	cmd.Flags().Float64Var(&accuracy, "accuracy", 0, "radius in metres of the circle around the position")
	cmd.Flags().StringVar(&mode, "mode", "centre", "what has to be inside: centre or strict, the whole circle")
	cmd.Flags().BoolP("help", "h", false, "help for check")
	return cmd
}

var negative = regexp.MustCompile(`^-[0-9.]`)

// coverNumbers puts a blank before numbers with a minus, by which they are no
// flags. What stands behind a flag is its value and stays.
func coverNumbers(args []string) []string {
	covered := slices.Clone(args)
	for i, a := range args {
		value := i > 0 && strings.HasPrefix(args[i-1], "--") && !strings.Contains(args[i-1], "=")
		if negative.MatchString(a) && !value {
			covered[i] = " " + a
		}
	}
	return covered
}

// fence is what is asked of a position.
type fence struct {
	mode     policy.Mode
	accuracy float64
	known    bool
}

// fenceAnswer is printed. Distances are in metres, null where there is no edge.
type fenceAnswer struct {
	Inside    bool        `json:"inside"`
	Mode      string      `json:"mode"`
	Latitude  float64     `json:"latitude"`
	Longitude float64     `json:"longitude"`
	Accuracy  *float64    `json:"accuracy,omitempty"`
	Areas     []fenceArea `json:"areas"`
}

type fenceArea struct {
	Region    string   `json:"region"` // its name, as a policy would call it
	Reference string   `json:"reference"`
	Inside    bool     `json:"inside"`
	Centre    bool     `json:"centre_inside"`
	ToEdge    *float64 `json:"distance_to_edge"`
	Polygon   int      `json:"polygon,omitempty"` // the first that holds it, from 1
	Label     string   `json:"label,omitempty"`   // what the file calls that one
	Polygons  int      `json:"polygons"`
	Positions int      `json:"positions"`
}

func checkGeofence(cmd *cobra.Command, args []string, f fence) error {
	if len(args) != 3 {
		return errors.New("name a GeoJSON file, a latitude and a longitude")
	}
	at, err := parsePosition(args[1], args[2])
	if err != nil {
		return err
	}
	switch {
	case f.mode == policy.Strict && !f.known:
		return errors.New("--mode strict judges a circle: give its radius with --accuracy")
	case !(f.accuracy >= 0) || math.IsInf(f.accuracy, 0):
		return fmt.Errorf("--accuracy %v: want metres, 0 or more", f.accuracy)
	}
	found, err := readAreas(args[0])
	if err != nil {
		return work(err)
	}
	out := fenceAnswer{Mode: f.mode.String(), Latitude: at.Latitude, Longitude: at.Longitude}
	if f.known {
		out.Accuracy = &f.accuracy
	}
	for _, r := range found {
		out.Areas = append(out.Areas, f.judge(r, at))
		out.Inside = out.Inside || out.Areas[len(out.Areas)-1].Inside
	}
	if err := show(cmd, out, func(w io.Writer) { sayFence(w, &out) }); err != nil {
		return err
	}
	if !out.Inside {
		return errFound
	}
	return nil
}

func parsePosition(latitude, longitude string) (geo.Position, error) {
	latitude, longitude = strings.TrimSpace(latitude), strings.TrimSpace(longitude)
	lat, err := strconv.ParseFloat(latitude, 64)
	if err != nil {
		return geo.Position{}, fmt.Errorf("latitude %.64q: want degrees, as 52.52", latitude)
	}
	lon, err := strconv.ParseFloat(longitude, 64)
	if err != nil {
		return geo.Position{}, fmt.Errorf("longitude %.64q: want degrees, as 13.405", longitude)
	}
	at := geo.Position{Latitude: lat, Longitude: lon}
	if !at.Valid() {
		return geo.Position{}, fmt.Errorf("%v %v is no position: want a latitude of -90 to 90 and a longitude of -180 to 180", lat, lon)
	}
	return at, nil
}

// readAreas reads a file or a folder.
func readAreas(path string) ([]*policy.Region, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	dir, files := "", map[string]string(nil)
	if info.IsDir() {
		dir = path
	} else {
		files = map[string]string{regionName(path): path}
	}
	found, err := regions.Load(dir, files)
	if err != nil {
		return nil, err
	}
	return found.All(), nil
}

// regionName makes a name of that of a file.
func regionName(path string) string {
	name := filepath.Base(path)
	for _, ending := range []string{".geojson", ".json"} {
		name = strings.TrimSuffix(name, ending)
	}
	name = strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '-' || r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
			return r
		}
		return '_'
	}, strings.TrimLeft(name, "."))
	if name == "" {
		return "area"
	}
	return name[:min(len(name), 64)]
}

func (f *fence) judge(r *policy.Region, at geo.Position) fenceArea {
	a := r.Area
	out := fenceArea{
		Region: r.Name, Reference: r.Reference(), Centre: a.Contains(at),
		Polygons: a.Polygons(), Positions: a.Positions(),
	}
	polygon := a.Find(at)
	if f.mode == policy.Strict {
		polygon = a.FindCircle(at, f.accuracy)
	}
	if out.Inside = polygon >= 0; out.Inside {
		out.Polygon, out.Label = polygon+1, a.Label(polygon)
	}
	if edge := a.ToEdge(at); !math.IsInf(edge, 0) {
		out.ToEdge = &edge
	}
	return out
}

func sayFence(w io.Writer, out *fenceAnswer) {
	t := newTable(w, "REGION", "VERDICT", "TO THE EDGE", "POLYGON", "NAME")
	areas := slices.Clone(out.Areas)
	slices.SortStableFunc(areas, func(a, b fenceArea) int {
		switch {
		case a.Inside == b.Inside:
			return 0
		case a.Inside:
			return -1
		default:
			return 1
		}
	})
	for i := range areas {
		a := &areas[i]
		verdict, polygon, edge := "outside", "-", "-"
		if a.Inside {
			verdict, polygon = "inside", fmt.Sprintf("%d of %d", a.Polygon, a.Polygons)
		} else if a.Centre {
			verdict = "outside (its circle reaches out)"
		}
		if a.ToEdge != nil {
			edge = metres(*a.ToEdge)
		}
		t.AppendRow([]any{a.Region, verdict, edge, polygon, orDash(printable(a.Label))})
	}
	t.Render()
}

// metres writes a distance for people.
func metres(m float64) string {
	switch {
	case m < 1000:
		return fmt.Sprintf("%.1f m", m)
	case m < 100_000:
		return fmt.Sprintf("%.2f km", m/1000)
	default:
		return fmt.Sprintf("%.0f km", m/1000)
	}
}
