package measure_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/tdx/guest"
)

var errFault = errors.New("injected fault")

// vm is a VM: its register, its run directory, and one operation that goes wrong.
type vm struct {
	register [48]byte
	extends  int
	readOnly bool
	stuck    bool // the kernel does not answer
	files    map[string][]byte

	ops, at int
	after   bool // the operation takes effect all the same
	dead    bool // the process is gone: nothing happens any more
	kill    bool
}

func newVM() *vm { return &vm{files: map[string][]byte{}} }

// do reports whether an operation takes effect, and its error.
func (v *vm) do() (bool, error) {
	if v.dead {
		return false, errFault
	}
	if v.ops++; v.ops != v.at {
		return true, nil
	}
	v.dead = v.kill
	return v.after, errFault
}

func (v *vm) restart() { v.at, v.dead = 0, false }

func (v *vm) Quote(context.Context, [64]byte) ([]byte, error) { return nil, guest.ErrNoTDX }

func (v *vm) RTMR3(ctx context.Context) ([48]byte, error) {
	if v.stuck {
		<-ctx.Done()
		return [48]byte{}, ctx.Err()
	}
	if v.readOnly {
		return [48]byte{}, fmt.Errorf("read: %w", guest.ErrReadOnly)
	}
	_, err := v.do()
	return v.register, err
}

func (v *vm) ExtendRTMR3(_ context.Context, digest [48]byte) error {
	ok, err := v.do()
	if ok {
		v.extends++
		v.register = statement.Extend(v.register, digest)
	}
	return err
}

func (v *vm) ReadFile(name string, limit int64) ([]byte, error) {
	if v.dead {
		return nil, errFault
	}
	b, ok := v.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	if int64(len(b)) > limit {
		return nil, errFault
	}
	return slices.Clone(b), nil
}

func (v *vm) Create(name string) (state.File, error) {
	ok, err := v.do()
	if ok {
		v.files[name] = nil
	}
	return &file{v, name}, err
}

func (v *vm) Rename(from, to string) error {
	ok, err := v.do()
	if ok {
		v.files[to] = v.files[from]
		delete(v.files, from)
	}
	return err
}

func (v *vm) Remove(name string) error {
	if _, there := v.files[name]; !there {
		return fs.ErrNotExist
	}
	ok, err := v.do()
	if ok {
		delete(v.files, name)
	}
	return err
}

func (v *vm) Sync() error { _, err := v.do(); return err }

type file struct {
	v    *vm
	name string
}

func (f *file) Write(b []byte) (int, error) {
	ok, err := f.v.do()
	if !ok {
		f.v.files[f.name] = append(f.v.files[f.name], b[:len(b)/2]...)
		return len(b) / 2, err
	}
	f.v.files[f.name] = append(f.v.files[f.name], b...)
	return len(b), err
}

func (f *file) Sync() error  { _, err := f.v.do(); return err }
func (f *file) Close() error { return nil }
