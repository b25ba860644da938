package measure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/strictjson"
)

const (
	name    = "events"
	maxFile = 64 << 10
)

// content is the file, JSON with nothing after it:
//
//	{"version":1, "boot":…, "register":"rtmr3" or "", "base":"96 digits", "events":[{"name":…,"data":…}…],
//	 "intent":{"event":{…}, "held":"96 digits"}}
type content struct {
	Version  int                `json:"version"` // 1
	Boot     string             `json:"boot"`
	Register statement.Register `json:"register"`
	Base     api.Hex            `json:"base,omitempty"`
	Events   []statement.Event  `json:"events"`
	Intent   *intent            `json:"intent,omitempty"`
}

// intent is an event that is being extended, and what the register held.
type intent struct {
	Event statement.Event `json:"event"`
	Held  api.Hex         `json:"held"`
}

func (c *content) log() statement.Log {
	return statement.Log{Register: c.Register, Base: c.Base, Events: c.Events}
}

// load returns nil when there is no log of this boot.
func load(d state.Dir, boot string) (*content, error) {
	file, err := d.ReadFile(name, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.Because(reason.EventLogDamaged, fmt.Errorf("read the event log: %w", err))
	}
	var c content
	if err := strictjson.Unmarshal(file, &c); err != nil {
		return nil, reason.Because(reason.EventLogDamaged, err)
	}
	if c.Boot != boot {
		return nil, nil // the directory outlived the VM, which it should not
	}
	if err := c.check(); err != nil {
		return nil, reason.Because(reason.EventLogDamaged, err)
	}
	return &c, nil
}

func (c *content) check() error {
	registered := c.Register == statement.RTMR3
	switch {
	case c.Version != 1:
		return fmt.Errorf("version %d", c.Version)
	case !registered && c.Register != statement.None:
		return fmt.Errorf("register %.16q", string(c.Register))
	case registered && len(c.Base) != 48 || !registered && (len(c.Base) != 0 || c.Intent != nil):
		return errors.New("register, base and intent do not fit")
	case len(c.Events) > statement.MaxEvents:
		return errors.New("too many events")
	}
	var log statement.Log
	for _, e := range c.Events {
		if err := log.Next(e); err != nil {
			return err
		}
		log.Events = append(log.Events, e)
	}
	if c.Intent == nil {
		return nil
	}
	if held := statement.Replay([48]byte(c.Base), c.Events); string(c.Intent.Held) != string(held[:]) {
		return errors.New("the intent is of another register")
	}
	return log.Next(c.Intent.Event)
}

func (l *Log) save(log statement.Log, in *intent) error {
	events := log.Events
	if events == nil {
		events = []statement.Event{}
	}
	file, err := json.Marshal(&content{1, l.o.BootID, log.Register, log.Base, events, in})
	if err == nil {
		err = state.Replace(l.o.RunDir, name, file)
	}
	if err != nil {
		return reason.Because(reason.EventLogUnavailable, fmt.Errorf("write the event log: %w", err))
	}
	return nil
}
