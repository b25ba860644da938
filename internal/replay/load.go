package replay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// loadChunk is how many records are asked for at once.
const loadChunk = 1024

// create makes a new store, durable when it returns.
func (l *Local) create(ctx context.Context, now time.Time, random func([]byte) error) error {
	l.header = header{scopes: make(map[string]int64)}
	if err := random(l.storeEpoch[:]); err != nil {
		return fmt.Errorf("randomness for a store epoch: %w", err)
	}
	if err := random(l.fingerprints[:]); err != nil {
		return fmt.Errorf("randomness for fingerprints: %w", err)
	}
	if l.persister == nil {
		return nil
	}
	head := Record{headerKey, seal(headerKey, kindHeader, l.appendHeader)}
	if err := l.persister.Batch(ctx, nil, []Record{head}); err != nil {
		return fmt.Errorf("write a new window store: %w", err)
	}
	return nil
}

// randomToken returns where tokens begin: two processes never use the same.
func randomToken(random func([]byte) error) (uint64, error) {
	var b [8]byte
	if err := random(b[:6]); err != nil {
		return 0, fmt.Errorf("randomness for claim tokens: %w", err)
	}
	return binary.BigEndian.Uint64(b[:]) >> 1, nil
}

// load reads the store. Damage is reported in Opened.Lost; an error means that
// nothing is known.
func (l *Local) load(ctx context.Context) (Opened, error) {
	if l.persister == nil {
		return Opened{Fresh: true}, nil
	}
	head, err := l.persister.Get(ctx, []string{headerKey})
	if err != nil {
		return Opened{}, fmt.Errorf("read the window store: %w", err)
	}
	if head[0] == nil {
		return Opened{Fresh: true}, nil
	}
	err = l.loadAll(ctx, head[0])
	if errors.Is(err, errDamaged) {
		return Opened{Lost: err}, nil
	}
	return Opened{}, err
}

func (l *Local) loadAll(ctx context.Context, head []byte) error {
	r, err := unseal(headerKey, kindHeader, head)
	if err != nil {
		return err
	}
	pages, err := l.readHeader(r)
	if err != nil {
		return err
	}
	ids, err := l.loadIndex(ctx, pages)
	if err != nil {
		return err
	}
	windows, chains, err := l.loadKeys(ctx, ids)
	if err != nil {
		return err
	}
	if err := l.loadTracks(ctx, ids); err != nil {
		return err
	}
	err = loadEach(ctx, l.persister, windows, kindWindow,
		func(w *window) string { return w.record }, (*window).read)
	if err != nil {
		return err
	}
	return loadEach(ctx, l.persister, chains, kindChain,
		func(c *chain) string { return c.record }, (*chain).read)
}

func (l *Local) loadIndex(ctx context.Context, pages int) ([]keyID, error) {
	numbers := make([]int, pages)
	for i := range numbers {
		numbers[i] = i
	}
	var ids []keyID
	err := loadEach(ctx, l.persister, numbers, kindIndex, l.pageKey, func(_ int, r *reader) error {
		p, err := readPage(r)
		l.index.pages = append(l.index.pages, p)
		ids = append(ids, p...)
		return err
	})
	return ids, err
}

// loadKeys reads the keys and makes their epochs, with windows and chains still
// to be read.
func (l *Local) loadKeys(ctx context.Context, ids []keyID) (windows []*window, chains []*chain, err error) {
	record := func(id keyID) string { return l.recordKey(kindKey, id, 0, "") }
	err = loadEach(ctx, l.persister, ids, kindKey, record, func(id keyID, r *reader) error {
		if l.keys[id] != nil {
			r.fail("key listed twice")
		}
		k := &keyState{id: id, record: record(id)}
		epochs, err := k.read(r)
		if err != nil {
			return err
		}
		l.keys[id] = k
		for _, s := range epochs {
			e, isNew := l.restoreEpoch(k, s)
			windows = append(windows, e.windows...)
			if isNew {
				chains = append(chains, e.chain)
			}
		}
		return nil
	})
	return windows, chains, err
}

func (l *Local) restoreEpoch(k *keyState, s storedEpoch) (e *epochState, newChain bool) {
	id := chainID{k.id.kid, s.no}
	ch := l.chains[id]
	if newChain = ch == nil; newChain {
		ch = &chain{id: id, record: l.recordKey(kindChain, keyID{kid: id.kid}, s.no, "")}
		l.chains[id] = ch
	}
	ch.refs++
	e = &epochState{no: s.no, first: s.first, skipped: s.skipped, joined: s.joined, chain: ch}
	for _, name := range s.streams {
		e.windows = append(e.windows, &window{
			key: k, epoch: e, stream: name, record: l.recordKey(kindWindow, k.id, s.no, name),
		})
	}
	l.streams += len(e.windows)
	k.epochs = append(k.epochs, e)
	return e, newChain
}

// loadEach reads one record per thing, many at a time.
func loadEach[T any](ctx context.Context, p Persister, things []T, kind byte, name func(T) string, read func(T, *reader) error) error {
	for len(things) > 0 {
		chunk := things[:min(len(things), loadChunk)]
		things = things[len(chunk):]
		names := make([]string, len(chunk))
		for i, t := range chunk {
			names[i] = name(t)
		}
		values, err := p.Get(ctx, names)
		if err != nil {
			return fmt.Errorf("read window records: %w", err)
		}
		for i, t := range chunk {
			r, err := unseal(names[i], kind, values[i])
			if err != nil {
				return err
			}
			if err := read(t, r); err != nil {
				return err
			}
		}
	}
	return nil
}
