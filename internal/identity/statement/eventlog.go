package statement

import "encoding/hex"

// summary is what a log comes to.
type summary struct {
	image          string // data of the last image event
	opened, closed bool
}

func (l *Log) summary() summary {
	var out summary
	for _, e := range l.Events {
		switch e.Name {
		case Image:
			out.image = e.Data
		case SSHOpen:
			out.opened = true
		case SSHClosed:
			out.closed = true
		}
	}
	return out
}

// Next reports why e may not follow the events of the log: SSHOpen comes once,
// SSHClosed once, last, and about the image before it.
func (l *Log) Next(e Event) error {
	if err := e.Validate(); err != nil {
		return err
	}
	before := l.summary()
	switch {
	case before.closed:
		return refuse(BadOrder, "%s comes after ssh-closed", e.Name)
	case e.Name == SSHOpen && before.opened:
		return refuse(BadOrder, "ssh-open comes twice")
	case e.Name == SSHClosed && before.image == "":
		return refuse(BadOrder, "ssh-closed comes before any image")
	case e.Name == SSHClosed && e.Data != before.image:
		return refuse(BadOrder, "ssh-closed is about %.64q, and %.64q was measured before it", e.Data, before.image)
	}
	return nil
}

// judgeOrder looks at the log by itself, and that it is not longer than the
// state lets it be.
func (s *Statement) judgeOrder(at place) error {
	if len(s.Log.Events) != 0 && (s.State == Locked || at == fresh || at == operated) {
		return refuse(BadOrder, "state %s has no events yet", s.State)
	}
	var prefix Log
	for i, e := range s.Log.Events {
		if err := prefix.Next(e); err != nil {
			return err
		}
		prefix.Events = s.Log.Events[:i+1]
	}
	return nil
}

// judgeImage holds the log against the workload. A step under way is ahead in
// the log, since what runs is measured before it runs; after a reboot nothing is
// measured until it runs again.
func (s *Statement) judgeImage(at place, l *summary) error {
	if at < configured || s.Step == Configure {
		return nil
	}
	if l.image == "" {
		if s.Link == nil {
			return refuse(BadWorkload, "a workload runs that was never measured")
		}
		return nil
	}
	if want := ImageData(s.Workload.Image, s.Workload.Digest); l.image != want {
		return refuse(BadWorkload, "%.64q was measured last, and %.64q runs", l.image, want)
	}
	return nil
}

// judgeSSH holds the log against the state and against what the state says of
// SSH.
func (s *Statement) judgeSSH(at place, l *summary) error {
	rebooted := s.Link != nil
	switch {
	case l.closed && at != exposed && s.Step != Expose && at != bare:
		return refuse(BadSSH, "the log has ssh-closed, and the state is %s", s.State)
	case at == exposed && !l.closed && (l.opened || !rebooted):
		return refuse(BadSSH, "exposed, and the log has no ssh-closed")
	case !s.SSH.Opened.IsZero() && !l.opened && !rebooted:
		return refuse(BadSSH, "SSH was opened in this boot, and the log has no ssh-open")
	case l.opened && s.SSH.Opened.IsZero() && at >= configured && s.Step == "":
		return refuse(BadSSH, "the log has ssh-open, and SSH was never opened")
	}
	for _, e := range s.Log.Events {
		if e.Name == SSHOpen && e.Data != hex.EncodeToString(s.SSHHostKey) {
			return refuse(BadSSH, "SSH was opened with another host key")
		}
	}
	return nil
}

func (s *Statement) judgeRegister(rtmr3 [48]byte) error {
	if s.Log.Register == None {
		return nil
	}
	if got := Replay([48]byte(s.Log.Base), s.Log.Events); got != rtmr3 {
		return refuse(BadRegister, "the events give %x…, and RTMR3 of the quote is %x…", got[:8], rtmr3[:8])
	}
	return nil
}
