package authstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// Moving a device. Import writes it under a generation of its own, which
// nothing loads; compares what then stands there with the source, read again;
// and only then lets the head name it, in one commit:
//
//	             manifest ──> rows under "i…" ──> compared ──> head names it
//	a kill here:    │              │                 │             │
//	                └── the target is as it was: the next ────┘    └── moved
//	                    Import of the device goes on
//
// Every row is written only if it is not there already, and one too many is
// removed. So a resumed import is an import.

var (
	// ErrSourceInUse reports a source that is, or may be, in use. A device that
	// is used in two places loses messages in both.
	ErrSourceInUse = errors.New("authstore: the source may be in use: stop whatever uses it first")

	// ErrSourceChanged reports a source that changed during the import.
	ErrSourceChanged = errors.New("authstore: the source changed during the import: stop whatever uses it and import again")

	// ErrTargetPaired reports a target that has a paired device already.
	ErrTargetPaired = errors.New("authstore: the target has a paired device already")

	// ErrNoDevice reports a source without the device that was asked for.
	ErrNoDevice = errors.New("authstore: no such device in the source")

	// ErrNotVerified reports rows that read back differ from what was written.
	// The target is as it was before.
	ErrNotVerified = errors.New("authstore: the imported rows differ from the source")
)

// Source is where a device comes from: FromSQL, FromKV, FromContainer.
type Source interface {
	String() string
	// usable refuses a source that somebody may be using.
	usable(o *importConfig) error
	open(ctx context.Context) (view, error)
}

// view is a look at a source that holds still.
type view interface {
	jid() types.JID
	table(ctx context.Context, t tableID) (*image, error) // that table alone
	warnings() []string
	close()
}

// ImportOption changes an Import or Restore.
type ImportOption func(*importConfig)

type importConfig struct {
	dryRun, stopped, overwrite, unchanged, retire bool
	progress                                      func(Progress)
}

// DryRun reads and counts; nothing is written.
func DryRun() ImportOption { return func(o *importConfig) { o.dryRun = true } }

// SourceStopped confirms that nothing uses the source, nor will. It is asked
// for where the source has no lock that could tell: an SQL database.
func SourceStopped() ImportOption { return func(o *importConfig) { o.stopped = true } }

// ReplaceDevice lets the import take the place of a paired device.
func ReplaceDevice() ImportOption { return func(o *importConfig) { o.overwrite = true } }

// RetireSource marks the source once the device has moved, so that nothing logs
// in with it there. The device of a KV is marked as deleted; its rows stay, and
// Container.Restore undoes it. A database of sqlstore gets a compat number with
// which sqlstore refuses to open it; nothing else in it changes. One that has
// other devices, or may not be written to, stays as it is: a warning then says
// so. Undo it only if the device was not used in its new place.
func RetireSource() ImportOption { return func(o *importConfig) { o.retire = true } }

// OnProgress is told of every step, from the goroutine of the caller. It must
// not call the Container. Export takes it too.
func OnProgress(f func(Progress)) ImportOption { return func(o *importConfig) { o.progress = f } }

// Progress is where an import or an export stands.
type Progress struct {
	Phase       string // "copy" or "verify"; "export"
	Kind        Kind
	Table       int // of Tables
	Tables      int
	Done, Total int   // rows of this kind
	Bytes       int64 // written so far, of all kinds
}

// Report is what an import found and did.
type Report struct {
	From     string
	JID      types.JID
	DryRun   bool
	Retired  bool         // the source was marked: nothing logs in with it there
	Resumed  bool         // an earlier, unfinished one was completed
	Entries  map[Kind]int // what the source has; a LID mapping counts twice
	Rows     int          // as they stand in the target
	Written  int          // rows written by this call
	Kept     int          // rows that stood there already
	Verified int          // rows read back and compared
	Bytes    int64        // written, before sealing
	Took     time.Duration
	Warnings []string // what the reader should know
}

const (
	kindImport   Kind = "import" // the manifest of an unfinished import
	importRowID       = "manifest"
	importRows        = 200 // rows handed to one write
	importTables      = int(numTables) - 1
)

func importKey() Key { return Key{kindImport, globalGen + "/" + importRowID} }

// importManifest names the generation that an unfinished import fills. A finished one
// is removed with the commit that names the generation.
type importManifest struct {
	Gen   string     `json:"gen"`
	Names *headNames `json:"names,omitempty"` // for an account that has none yet
}

// Import moves a whole device from a source into to, under f's term: the
// credentials, all Signal state, everything else. The account then logs in without
// pairing, and peers notice nothing. Afterwards the source must never be used again:
// see RetireSource. The device that is replaced is purged once the imported one has
// logged in here, that is, has uploaded prekeys or received a message. So is a
// deleted one that the target could still restore.
//
// It can be stopped at any point and called again. Until it is complete, and has compared
// the target with the source, the target is what it was. An error leaves it so. Entries
// of either side about received messages that no handler has taken yet are kept, see
// MessageBook. If both have an entry about one message, the source's counts, in a Restore
// the target's. A Device that to has given out before is over, and a connection on it is
// cut: end it, and its term, before.
//
// One table is held in memory at a time.
func Import(ctx context.Context, from Source, to *Container, f Fence, opts ...ImportOption) (Report, error) {
	var o importConfig
	for _, opt := range opts {
		opt(&o)
	}
	began := time.Now()
	r := Report{From: from.String(), DryRun: o.dryRun, Entries: make(map[Kind]int)}
	err := importInto(ctx, from, to, f, &o, &r)
	r.Took = time.Since(began)
	if err != nil {
		return r, fmt.Errorf("authstore: import from %s: %w", from, err)
	}
	return r, nil
}

func importInto(ctx context.Context, from Source, to *Container, f Fence, o *importConfig, r *Report) error {
	if err := from.usable(o); err != nil {
		return err
	}
	if f == nil || !o.dryRun && !f.Held() {
		return fmt.Errorf("the target's lock is not held: %w", ErrFenced)
	}
	if err := to.lock(ctx); err != nil {
		return err
	}
	defer func() { <-to.sem }()
	// A first look, so that an import that is refused ends nobody's device.
	if _, err := to.headForImport(ctx, o); err != nil {
		return err
	}
	v, err := from.open(ctx)
	if err != nil {
		return err
	}
	defer func() { v.close() }()
	r.JID = v.jid()
	if o.dryRun {
		return count(ctx, v, o, r)
	}
	m, err := to.readManifest(ctx)
	if err != nil {
		return err
	}
	if err := to.endCurrent(); err != nil {
		return err
	}
	if err := to.settle(ctx, f); err != nil {
		return err
	}
	// A device may have been paired since the first look. From here on none is.
	h, err := to.headForImport(ctx, o)
	if err != nil {
		return err
	}
	s := newDeviceStore(to, f)
	defer s.retire(ErrSuperseded)
	s.head = h
	if r.Resumed = m.Gen != ""; !r.Resumed {
		// Not a number: a device that is paired meanwhile takes the next one. Nor a
		// time: a clock can be set back, and the purge of the device before would
		// then take the rows of this one.
		m = importManifest{Gen: "i" + strings.ToLower(rand.Text())}
	}
	s.gen = m.Gen
	switch {
	case h.Names != nil:
		m.Names = nil
	case m.Names == nil && to.cfg.codec.aead != nil && (h.Gen == "" || to.cfg.sealNames):
		m.Names = newHeadNames(h.Gen != "")
	}
	s.useNames(cmp.Or(h.Names, m.Names))
	if err := s.putManifest(m); err != nil {
		return err
	}
	_, archived := from.(archiveSource)
	im := &importer{s: s, o: o, r: r, sums: make(map[tableID][32]byte), late: archived}
	if err := im.copyAll(ctx, v); err != nil {
		return err
	}
	v.close()
	again, err := from.open(ctx)
	if err != nil {
		return err
	}
	v = again
	if again.jid() != r.JID {
		return ErrSourceChanged
	}
	if err := im.verifyAll(ctx, v); err != nil {
		return err
	}
	r.Warnings = append(r.Warnings, v.warnings()...)
	undo, err := im.copyBook(ctx, v, from.usable)
	if err != nil {
		return err
	}
	if err := s.adoptImport(h, m, r.JID); err != nil {
		undo()
		return err
	}
	if !o.retire {
		return nil
	}
	switch src := from.(type) {
	case kvSource:
		if err := src.retire(ctx); err != nil {
			return fmt.Errorf("the device has moved, but the source could not be marked: never use it again: %w", err)
		}
		r.Retired = true
	case sqlSource:
		v.close() // it may hold the only connection there is
		if err := src.retire(ctx); err != nil {
			r.Warnings = append(r.Warnings, "the source was not marked as moved, so nothing but you keeps it from being used: never start the old service again: "+err.Error())
		} else {
			r.Retired = true
		}
	}
	return nil
}

// headForImport reads the record of the target's device. It refuses a paired one that
// the import may not replace.
func (c *Container) headForImport(ctx context.Context, o *importConfig) (head, error) {
	h, err := c.readHead(ctx)
	if err != nil {
		return head{}, err
	}
	if h.State == statePaired && !o.overwrite {
		return head{}, fmt.Errorf("%w (%s): pass ReplaceDevice if it is to be replaced", ErrTargetPaired, h.JID)
	}
	return h, nil
}

// endCurrent ends the device that was given out.
func (c *Container) endCurrent() error {
	c.mu.Lock()
	old, closed := c.current, c.closed
	c.current = nil
	c.mu.Unlock()
	if closed {
		return ErrSuperseded
	}
	if old != nil {
		// It goes with the rows that it cannot write any more, as in Device.
		_ = old.dismiss(ErrSuperseded)
	}
	return nil
}

func (c *Container) readManifest(ctx context.Context) (m importManifest, err error) {
	key := importKey()
	var answer result[map[Key][]byte]
	err = c.cfg.call(ctx, "read the import's manifest", func(ctx context.Context) error {
		return answer.of(c.kv.Get(ctx, key))
	})
	if err != nil {
		return m, err
	}
	raw, ok := answer.get()[key]
	if !ok {
		return m, nil
	}
	rec, err := c.cfg.codec.decode(key, importRowID, raw)
	if err == nil {
		if json.Unmarshal(rec.data, &m) != nil || !strings.HasPrefix(m.Gen, "i") {
			err = fmt.Errorf("%w: it does not parse", ErrCorrupt)
		}
	}
	if errors.Is(err, ErrCorrupt) {
		return m, fmt.Errorf("the manifest of an unfinished import: %w: DropImport removes it", err)
	}
	if err != nil {
		return m, fmt.Errorf("the manifest of an unfinished import: %w", err)
	}
	return m, nil
}

func (s *deviceStore) putManifest(m importManifest) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	key := importKey()
	value, err := s.cfg.codec.wrap(key, s.headFlags(), body) // an older library would take the rows for its own
	if err != nil {
		return err
	}
	_, err = s.commitRows("begin import", nil, Batch{Put: []Entry{{key, value}}}, false)
	return err
}

// adoptImport makes the imported generation the account's device.
func (s *deviceStore) adoptImport(h head, m importManifest, jid types.JID) error {
	unproved := h.Kept != nil && h.State == statePaired // nobody has seen the present one log in
	if h.Kept != nil && !unproved {                     // else it would come back when the imported one is deleted
		h.Purge, h.Kept = append(slices.Clone(h.Purge), h.Kept.Gen), nil
	}
	switch {
	case unproved: // the one before it stays the one to go back to
		was := *h.Kept
		was.Imported = true
		h.Kept, h.Purge = &was, append(slices.Clone(h.Purge), h.Gen)
	case h.State == stateDeleted:
		h.Kept = &kept{Imported: true, Gen: h.Gen, JID: h.JID, DeletedAt: h.DeletedAt, Reason: h.Reason}
	case h.State == statePaired: // the service may know the imported one no more
		h.Kept = &kept{Imported: true, Gen: h.Gen, JID: h.JID, DeletedAt: time.Now().UTC(), Reason: "replaced by an import"}
	case h.Gen != "":
		h.Purge = append(slices.Clone(h.Purge), h.Gen)
	}
	h.Gen, h.State, h.JID = m.Gen, statePaired, jid.String()
	h.DeletedAt, h.Reason, h.Names = time.Time{}, "", cmp.Or(h.Names, m.Names)
	encoded, err := h.encode()
	if err != nil {
		return err
	}
	_, err = s.commitRows("finish import", []renderedRow{{row{tHead, headID}, encoded, true}}, Batch{Delete: []Key{importKey()}}, true)
	return err
}

// DropImport removes what an unfinished import has left, also one whose manifest is
// damaged. The device, if there is one, is not touched.
func DropImport(ctx context.Context, to *Container, f Fence) error {
	if err := to.lock(ctx); err != nil {
		return err
	}
	defer func() { <-to.sem }()
	if err := to.settle(ctx, f); err != nil {
		return err
	}
	m, err := to.readManifest(ctx)
	if err == nil && m.Gen == "" {
		return nil
	}
	begins, named := m.Gen+"/", func(Key) bool { return false }
	if errors.Is(err, ErrCorrupt) {
		// Any generation that begins so, unless it is a device's that was imported.
		begins = "i"
		named, err = to.namedByHead(ctx)
	}
	if err != nil {
		return err
	}
	s := newDeviceStore(to, f)
	defer s.retire(ErrSuperseded)
	for _, kind := range deviceKinds() {
		var answer result[[]Entry]
		err := s.gate.lookAgain(ctx, "drop import", func(ctx context.Context) error {
			return answer.of(scanAll(s.gate.kv.Scan(ctx, kind, begins)))
		})
		if err != nil {
			return err
		}
		stale := slices.DeleteFunc(answer.get(), func(e Entry) bool { return named(e.Key) })
		for rows := range slices.Chunk(stale, importRows) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			var b Batch
			for _, e := range rows {
				b.Delete = append(b.Delete, e.Key)
			}
			if _, err := s.commitRows("drop import", nil, b, false); err != nil {
				return err
			}
		}
	}
	_, err = s.commitRows("drop import", nil, Batch{Delete: []Key{importKey()}}, false)
	return err
}

// namedByHead tells the rows of the generations that the account's record names.
func (c *Container) namedByHead(ctx context.Context) (func(Key) bool, error) {
	h, err := c.readHead(ctx)
	if err != nil {
		return nil, err
	}
	gens := append(slices.Clone(h.Purge), h.Gen)
	if h.Kept != nil {
		gens = append(gens, h.Kept.Gen)
	}
	return func(k Key) bool {
		gen, _ := genAndID(k)
		return slices.Contains(gens, gen)
	}, nil
}
