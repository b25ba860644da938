package nonceextension

import "time"

// pace lets writes of the windows begin no more often than every so long, so that
// the requests of that time share one: a write that waits for the disk costs
// about as much CPU as verifying a thousand items. Data is handed on before the
// write that a request waits for, so that only the answer to its sender comes later.
//
// It does not learn from how requests come: those that come one after the other
// because each waits for an answer look like those of many senders.
type pace struct {
	every time.Duration
	began time.Time // of the write before
}

// wait returns when the next write may begin, or when somebody is in a hurry.
// Calls do not overlap.
func (p *pace) wait(hurry <-chan struct{}) {
	if left := p.every - time.Since(p.began); left > 0 {
		t := time.NewTimer(left)
		select {
		case <-t.C:
		case <-hurry:
			t.Stop()
		}
	}
	p.began = time.Now()
}
