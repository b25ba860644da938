package replay

import (
	"context"
	"fmt"
)

// Persister keeps records by key. Its user is the only writer.
type Persister interface {
	// Get returns the values of keys, in their order, nil where there is none.
	Get(ctx context.Context, keys []string) ([][]byte, error)
	// Batch removes and then puts, all of it or nothing, durable when it returns
	// without error; after an error either may be the case. It does not keep
	// the slices it is given.
	Batch(ctx context.Context, deletes []string, puts []Record) error
}

// Record is one value to put.
type Record struct {
	Key   string
	Value []byte
}

// batch is what several callers wait for together.
type batch struct {
	done chan struct{}
	err  error // valid after done
}

// unsaved is what has changed since it was last written.
type unsaved struct {
	windows []*window
	keys    []*keyState
	chains  []*chain
	tracks  []*keyState
	pages   map[int]struct{}
	header  bool
	deletes []string
	waiting int    // confirmed blocks whose senders wait for it
	next    *batch // set when somebody waits for it
}

// enough is how many blocks share a write that is not held back for more of them.
const enough = 64

func (u *unsaved) empty() bool {
	return len(u.windows) == 0 && len(u.keys) == 0 && len(u.chains) == 0 && len(u.tracks) == 0 && len(u.pages) == 0 && !u.header && len(u.deletes) == 0
}

// touch notes that the call that holds the lock has changed w and has to wait
// until that is durable.
func (l *Local) touch(w *window) {
	l.note(w)
	l.waits = true
}

// hurried is touch for a call that holds up data.
func (l *Local) hurried(w *window) {
	l.touch(w)
	l.hurries = true
}

// note notes that the call that holds the lock has changed w, which goes with
// whatever is written next.
func (l *Local) note(w *window) {
	if !w.touched {
		w.touched = true
		l.touched = append(l.touched, w)
	}
}

// markWindow and its like note changes that are written with whatever is
// written next.
func (l *Local) markWindow(w *window) {
	if !w.dirty && l.persister != nil {
		w.dirty = true
		l.unsaved.windows = append(l.unsaved.windows, w)
	}
}

func (l *Local) markKey(k *keyState) {
	if !k.dirty && l.persister != nil {
		k.dirty = true
		l.unsaved.keys = append(l.unsaved.keys, k)
	}
}

func (l *Local) markChain(c *chain) {
	if !c.dirty && l.persister != nil {
		c.dirty = true
		l.unsaved.chains = append(l.unsaved.chains, c)
	}
}

func (l *Local) erase(record string) {
	if l.persister != nil {
		l.unsaved.deletes = append(l.unsaved.deletes, record)
	}
}

// settle ends a call; it says whether it has to wait for what it changed.
func (l *Local) settle() bool {
	waits := l.waits
	for _, w := range l.touched {
		w.touched = false
		w.flights.compact()
		l.markWindow(w)
	}
	if l.hurries && l.pace != nil {
		select {
		case l.hurry <- struct{}{}:
		default: // somebody is in a hurry already
		}
	}
	l.touched, l.waits, l.hurries = l.touched[:0], false, false
	return waits
}

// end ends a call and returns what it has to wait for, nil for nothing.
func (l *Local) end() *batch {
	if !l.settle() || l.persister == nil {
		return nil
	}
	return l.join()
}

func (l *Local) join() *batch {
	if l.unsaved.next == nil {
		l.unsaved.next = &batch{done: make(chan struct{})}
	}
	return l.unsaved.next
}

// wait returns when b is written. Whoever comes first writes for all who
// joined; those who come while it writes share the batch after it.
func (l *Local) wait(ctx context.Context, b *batch) error {
	if b == nil {
		return nil
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	case l.writing <- struct{}{}:
	}
	select {
	case <-b.done:
		<-l.writing
		return b.err
	default:
	}
	// The others wait for this write, too: it must not end with our context, and
	// a disk that hangs must not keep us beyond it.
	go l.writeFor(context.WithoutCancel(ctx), b)
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// writeFor writes for all who joined, and lets the next one write.
func (l *Local) writeFor(ctx context.Context, b *batch) {
	defer func() { <-l.writing }()
	if l.pace != nil {
		l.pace(l.hurry)
	}
	l.write(ctx, b)
}

// write writes the batch that is next. The caller holds l.writing.
func (l *Local) write(ctx context.Context, b *batch) {
	l.mu.Lock()
	u := l.unsaved
	l.unsaved = unsaved{}
	select {
	case <-l.hurry: // whoever was in one is served now
	default:
	}
	deletes, puts := l.encodeUnsaved(&u)
	l.mu.Unlock()

	err := l.persister.Batch(ctx, deletes, puts)
	l.mu.Lock()
	l.failing = err != nil
	if err != nil {
		l.keepUnsaved(&u)
		err = fmt.Errorf("write %d window records: %w", len(puts), err)
	} else {
		for _, w := range u.windows {
			w.wrote()
			w.confirmsOn, w.nonceTimesOn = w.confirmsOut, w.nonceTimesOut
		}
	}
	l.mu.Unlock()
	b.err = err
	close(b.done)
}

// keepUnsaved puts back what could not be written, so that the next batch
// carries it in the state of then.
func (l *Local) keepUnsaved(u *unsaved) {
	for _, w := range u.windows {
		l.markWindow(w)
	}
	for _, k := range u.keys {
		l.markKey(k)
	}
	for _, c := range u.chains {
		l.markChain(c)
	}
	for _, k := range u.tracks {
		l.markTrack(k)
	}
	for p := range u.pages {
		l.markPage(p)
	}
	l.unsaved.header = l.unsaved.header || u.header
	l.unsaved.deletes = append(l.unsaved.deletes, u.deletes...)
}

func (l *Local) markPage(p int) {
	if l.persister == nil {
		return
	}
	if l.unsaved.pages == nil {
		l.unsaved.pages = make(map[int]struct{})
	}
	l.unsaved.pages[p] = struct{}{}
}

// encodeUnsaved turns what changed into records and marks it as saved.
func (l *Local) encodeUnsaved(u *unsaved) (deletes []string, puts []Record) {
	puts = make([]Record, 0, len(u.windows)+len(u.keys)+len(u.chains)+len(u.tracks)+len(u.pages)+1)
	put := func(key string, kind byte, body func([]byte) []byte) {
		puts = append(puts, Record{key, seal(key, kind, body)})
	}
	for _, w := range u.windows {
		w.dirty, w.confirmsOut, w.nonceTimesOut = false, w.confirms, w.nonceTimes
		if l.closed {
			w.end()
		} else {
			w.advance()
		}
		if !w.dead {
			put(w.record, kindWindow, w.append)
		}
	}
	for _, k := range u.keys {
		k.dirty = false
		put(k.record, kindKey, k.append)
	}
	for _, c := range u.chains {
		c.dirty = false
		if l.chains[c.id] == c {
			put(c.record, kindChain, c.append)
		}
	}
	for _, k := range u.tracks {
		k.trackDirty = false
		put(k.trackRecord, kindTrack, k.track.Append)
	}
	for p := range u.pages {
		put(l.pageKey(p), kindIndex, l.index.pages[p].append)
	}
	if u.header {
		put(headerKey, kindHeader, l.appendHeader)
	}
	return u.deletes, puts
}
