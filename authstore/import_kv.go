package authstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.mau.fi/whatsmeow/types"
)

type kvSource struct {
	name string
	c    *Container
	f    Fence
}

// FromKV is the device in a KV of ours, with the options its Container is
// opened with (WithAEAD). The source's lock must be held by the caller: f is
// its term, and is looked at again and again. Rows that do not parse are left
// out and named in the report.
func FromKV(name string, kv KV, f Fence, opts ...Option) Source {
	return kvSource{name, New(kv, opts...), f}
}

func (k kvSource) String() string { return k.name }

func (k kvSource) usable(*importConfig) error {
	if k.f == nil || !k.f.Held() {
		return fmt.Errorf("%w: acquire its lock for the import, and keep it", ErrSourceInUse)
	}
	return nil
}

func (k kvSource) open(ctx context.Context) (view, error) {
	h, err := k.c.readHead(ctx)
	if err != nil {
		return nil, err
	}
	switch h.State {
	case statePaired:
	case stateDeleted:
		return nil, fmt.Errorf("%w: it was deleted: restore it first", ErrNoDevice)
	default:
		return nil, ErrNoDevice
	}
	s := newDeviceStore(k.c, k.f)
	s.gen, s.head = h.Gen, h
	s.useNames(h.Names)
	v := &kvView{s: s, source: k, damaged: make(map[Kind]int)}
	if v.device, err = types.ParseJID(h.JID); err != nil {
		s.retire(ErrSuperseded)
		return nil, badDevice("JID does not parse")
	}
	return v, nil
}

// retire marks the device as deleted.
func (k kvSource) retire(ctx context.Context) error {
	h, err := k.c.readHead(ctx)
	if err != nil {
		return err
	}
	if h.Kept != nil { // the next pairing keeps the one that is moved away
		h.Purge, h.Kept = append(slices.Clone(h.Purge), h.Kept.Gen), nil
	}
	h.State, h.DeletedAt, h.Reason = stateDeleted, time.Now().UTC(), "moved to another store"
	encoded, err := h.encode()
	if err != nil {
		return err
	}
	s := newDeviceStore(k.c, k.f)
	defer s.retire(ErrSuperseded)
	s.useNames(h.Names)
	if _, err = s.commitRows("retire the source", []renderedRow{{row{tHead, headID}, encoded, true}}, Batch{}, true); err != nil {
		return err
	}
	k.f.Cut(errMoved) // should a connection be up after all
	return nil
}

var errMoved = errors.New("authstore: the device has moved to another store")

type kvView struct {
	s       *deviceStore
	source  kvSource
	device  types.JID
	damaged map[Kind]int
}

func (v *kvView) jid() types.JID { return v.device }
func (v *kvView) close()         { v.s.retire(ErrSuperseded) }

func (v *kvView) warnings() (out []string) {
	for kind, n := range v.damaged {
		out = append(out, fmt.Sprintf("%d damaged rows of kind %s were left out", n, kind))
	}
	return out
}

func (v *kvView) table(ctx context.Context, t tableID) (*image, error) {
	if err := v.source.usable(nil); err != nil {
		return nil, err
	}
	rows, err := v.s.scanTable(v.s.whole(ctx), "read the source", t, "")
	if err != nil {
		return nil, err
	}
	im := newImage()
	damaged := 0
	for _, r := range rows {
		if r.err == nil {
			r.err = im.load(r.row, r.data)
		}
		switch {
		case r.err == nil:
		case t == tDevice || !errors.Is(r.err, ErrCorrupt):
			return nil, r.err
		default:
			damaged++
		}
	}
	if v.damaged[specOf(t).kind] = damaged; damaged == 0 {
		delete(v.damaged, specOf(t).kind)
	}
	return settled(t, im)
}

// settled brings a table into the form in which it can move. The device must
// be one, and a secret must stay older than what the target's terms will add,
// whatever their epochs are.
func settled(t tableID, im *image) (*image, error) {
	switch t {
	case tDevice:
		v, ok := im.get(tDevice, deviceID)
		if !ok {
			return nil, badDevice("record is missing")
		}
		if _, err := decodeDevice(v); err != nil {
			return nil, err
		}
	case tSecret:
		oldest := make(map[string]string) // without epoch -> with the lowest
		for id := range im.flat[tSecret] {
			i := strings.LastIndexByte(id, '/')
			if old, ok := oldest[id[:i+1]]; !ok || id < old {
				oldest[id[:i+1]] = id
			}
		}
		out := newImage()
		for base, id := range oldest {
			out.apply(put(tSecret, base+epochID(0), im.flat[tSecret][id]))
		}
		return out, nil
	}
	return im, nil
}

type liveSource struct{ c *Container }

// FromContainer is the device that c has loaded, for Export: a backup of an
// account while it runs. The rows in memory are taken at one moment, app-state
// versions with their MACs; message secrets and other things that are read on
// demand are what stands in the KV then.
func FromContainer(c *Container) Source { return liveSource{c} }

func (l liveSource) String() string { return "a running account" }

func (l liveSource) usable(o *importConfig) error {
	if o != nil {
		return fmt.Errorf("%w: a running account can be exported, not moved", ErrSourceInUse)
	}
	return nil
}

func (l liveSource) open(ctx context.Context) (view, error) {
	l.c.mu.Lock()
	s := l.c.current
	l.c.mu.Unlock()
	if s == nil {
		return nil, fmt.Errorf("%w: none is loaded", ErrNoDevice)
	}
	if err := s.ready("export"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.packLocked(true)
	s.mu.Unlock()
	if err := s.flush("export"); err != nil {
		return nil, err
	}
	// All MACs come into memory, so that they are copied with their versions. Those of
	// a collection that is new meanwhile are there already.
	var collections []string
	s.each(ctx, tAppState, func(name string, _ []byte) { collections = append(collections, name) })
	for _, name := range collections {
		if err := s.loadMACs(ctx, "export", name); err != nil {
			return nil, err
		}
	}
	v := &liveView{s: s, im: newImage()}
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range numTables {
		if !copiedAtOnce(t) {
			continue
		}
		// Values are never written to, so the maps are all there is to copy.
		maps.Copy(v.im.flat[t], s.im.flat[t])
		for bucket, entries := range s.im.packed[t] {
			v.im.packed[t][bucket] = maps.Clone(entries)
		}
	}
	maps.Copy(v.im.beside, s.im.beside)
	v.device = s.head.info().JID
	return v, nil
}

// copiedAtOnce are the tables of which a liveView has a copy.
func copiedAtOnce(t tableID) bool { return t == tAppMAC || !specOf(t).lazy }

type liveView struct {
	s      *deviceStore
	im     *image
	device types.JID
}

func (v *liveView) jid() types.JID     { return v.device }
func (v *liveView) close()             {}
func (v *liveView) warnings() []string { return nil }

func (v *liveView) table(ctx context.Context, t tableID) (*image, error) {
	im := newImage()
	if copiedAtOnce(t) {
		im.flat[t], im.packed[t] = v.im.flat[t], v.im.packed[t]
		im.beside = v.im.besideOf(t)
		return settled(t, im)
	}
	rows, err := v.s.scan(v.s.whole(ctx), "export", t, "")
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if err := im.load(r.row, r.data); err != nil && !errors.Is(err, ErrCorrupt) {
			return nil, err
		}
	}
	return settled(t, im)
}
