package location

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/telemark-otel/telemark/internal/strictjson"
)

// SourceFile is the claim "src" of a position from a file; a sensor that names
// itself stands behind it: "file:modem-1".
const SourceFile = "file"

const (
	maxFile   = 4096 // bytes
	maxSensor = 32 - len(SourceFile) - 1
	// settle is how long after a change the file is read: writers that do not
	// replace it write in pieces.
	settle = 50 * time.Millisecond
)

// Errors of files.
var (
	ErrNotRegular  = errors.New("it is not a regular file")
	ErrFileTooBig  = fmt.Errorf("it has more than %d bytes", maxFile)
	ErrWorldWrites = errors.New("everybody may write it, so anybody could say where this machine is: chmod o-w")
	ErrSensor      = fmt.Errorf("\"sensor\" has 1 to %d bytes of printable ASCII without blanks, or is left out", maxSensor)
	ErrFixTime     = errors.New("\"time\" must be there, in the form of RFC 3339, and not after now: a fix without a time could be any old one")
)

// futureSlack is how far the clock of who writes the file may be ahead.
const futureSlack = time.Minute

// Position is the content of the file:
//
//	{"latitude": 46.948, "longitude": 7.4474, "altitude": 540, "accuracy": 12,
//	 "time": "2026-11-22T10:00:00Z", "sensor": "modem-1"}
//
// Altitude in metres above the ellipsoid, accuracy and sensor may be left out.
// Accuracy is a radius in metres that holds the position with 95 %; time is when
// the fix was taken.
type Position struct {
	Latitude  *float64 `json:"latitude"`
	Longitude *float64 `json:"longitude"`
	Altitude  *float64 `json:"altitude,omitempty"`
	Accuracy  *float64 `json:"accuracy,omitempty"`
	Time      string   `json:"time"`
	Sensor    *string  `json:"sensor,omitempty"`
}

// FileOptions say where the file is. MaxAge and Poll are above 0.
type FileOptions struct {
	Path   string
	MaxAge time.Duration
	Poll   time.Duration    // how often it is looked at where no notification comes
	Now    func() time.Time // nil: time.Now
}

// File reads a position out of a file whenever it changes. Content that cannot be
// read (half of it is written) changes nothing: the position of before goes on
// growing old.
type File struct {
	memory
	o    FileOptions
	seen os.FileInfo // of what was read last, whole; owned by Run
}

var _ Live = (*File)(nil)

// NewFile returns the source; it knows nothing until it runs.
func NewFile(o FileOptions) (*File, error) {
	switch {
	case !filepath.IsAbs(o.Path):
		return nil, fmt.Errorf("%w, not %.128q", ErrPath, o.Path)
	case o.MaxAge <= 0 || o.MaxAge > maxMaxAge:
		return nil, fmt.Errorf("%w, not %v", ErrMaxAge, o.MaxAge)
	case o.Poll < minPoll || o.Poll > maxPoll:
		return nil, fmt.Errorf("%w, not %v", ErrPoll, o.Poll)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	f := &File{o: o}
	f.maxAge = o.MaxAge
	f.status = Status{Problem: "the file was not read yet", Used: -1, Seen: -1}
	return f, nil
}

// Run implements [Live]. Watched is the folder, since a file that is replaced
// is another one; where the path leads over symbolic links the folder may not
// show a change, and where there are no notifications at all nothing does: hence
// the poll.
func (f *File) Run(ctx context.Context) {
	var events <-chan fsnotify.Event
	if w, err := fsnotify.NewWatcher(); err == nil {
		defer func() { _ = w.Close() }()
		go func() {
			for range w.Errors { // an overflow is made up for by the poll
			}
		}()
		if w.Add(filepath.Dir(f.o.Path)) == nil {
			events = w.Events
		}
	}
	tick := time.NewTicker(f.o.Poll)
	defer tick.Stop()
	settled := time.NewTimer(time.Hour)
	settled.Stop()
	defer settled.Stop()
	f.look(true)
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-events:
			if !open {
				events = nil
				continue
			}
			settled.Reset(settle)
		case <-settled.C:
			f.look(true)
		case <-tick.C:
			f.look(false)
		}
	}
}

// look reads the file, when it may have changed or must be read.
func (f *File) look(must bool) {
	info, err := os.Stat(f.o.Path)
	if err == nil && !must && f.seen != nil && os.SameFile(info, f.seen) && info.Size() == f.seen.Size() && info.ModTime().Equal(f.seen.ModTime()) {
		return
	}
	got, info, err := readFix(f.o.Path, f.o.Now())
	if err != nil {
		f.seen = nil
		f.learn(nil, func(s *Status) { s.Problem = fmt.Sprintf("%s: %v", f.o.Path, err) })
		return
	}
	f.seen = info
	f.learn(got, func(s *Status) { s.Problem, s.Receiver = "", got.sensor() })
}

func (f *fix) sensor() string {
	if len(f.source) > len(SourceFile) {
		return f.source[len(SourceFile)+1:]
	}
	return ""
}

// readFix reads a position file once.
func readFix(path string, now time.Time) (*fix, os.FileInfo, error) {
	content, info, err := readPosition(path)
	if err != nil {
		return nil, nil, err
	}
	var p Position
	if err := strictjson.Unmarshal(content, &p); err != nil {
		return nil, nil, err
	}
	got, err := p.fix(now)
	return got, info, err
}

func (p *Position) fix(now time.Time) (*fix, error) {
	if p.Latitude == nil || p.Longitude == nil {
		return nil, errors.New("\"latitude\" and \"longitude\" must be there")
	}
	if err := check(*p.Latitude, *p.Longitude, p.Altitude, p.Accuracy); err != nil {
		return nil, err
	}
	taken, err := time.Parse(time.RFC3339Nano, p.Time)
	if err != nil || !validTime(taken) || taken.After(now.Add(futureSlack)) {
		return nil, fmt.Errorf("%w: %.64q", ErrFixTime, p.Time)
	}
	source := SourceFile
	if p.Sensor != nil {
		if !validSensor(*p.Sensor) {
			return nil, fmt.Errorf("%w: %.64q", ErrSensor, *p.Sensor)
		}
		source += ":" + *p.Sensor
	}
	return &fix{
		latitude: *p.Latitude, longitude: *p.Longitude, altitude: p.Altitude, accuracy: p.Accuracy,
		taken: taken, arrived: now, source: source,
	}, nil
}

func validSensor(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return s != "" && len(s) <= maxSensor
}

// readPosition opens without waiting, since the file may be a pipe by now, and
// looks at what it opened.
func readPosition(path string) ([]byte, os.FileInfo, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, nil, err
	case !info.Mode().IsRegular():
		return nil, nil, ErrNotRegular
	case info.Mode().Perm()&0o002 != 0:
		return nil, nil, ErrWorldWrites
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, nil, err
	}
	if len(content) > maxFile {
		return nil, nil, ErrFileTooBig
	}
	return content, info, nil
}
