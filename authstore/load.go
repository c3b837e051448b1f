package authstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	waLog "go.mau.fi/whatsmeow/util/log"
)

func headKey() Key { return Key{specOf(tHead).kind, globalGen + "/" + headID} }

// readHead reads which device is the account's. No record: the zero head.
func (c *Container) readHead(ctx context.Context) (head, error) {
	key := headKey()
	var answer result[map[Key][]byte]
	err := c.cfg.call(ctx, "read the account", func(ctx context.Context) error {
		return answer.of(c.kv.Get(ctx, key))
	})
	if err != nil {
		return head{}, err
	}
	raw, ok := answer.get()[key]
	if !ok {
		return head{}, nil
	}
	rec, err := c.cfg.codec.decode(key, headID, raw)
	if err != nil {
		return head{}, fmt.Errorf("authstore: the record that names the account's device: %w", err)
	}
	return decodeHead(rec.data)
}

// load reads a device in two round trips: the head, then every table at once.
func (c *Container) load(ctx context.Context, f Fence) (s *deviceStore, err error) {
	h, err := c.readHead(ctx)
	if err != nil {
		return nil, err
	}
	s = newDeviceStore(c, f)
	defer func() {
		if err != nil { // nobody gets it, so it writes nothing: it may have begun to set rows aside
			s.retire(err)
			s = nil
		}
	}()
	s.head = h
	if h.Gen == "" {
		if err := c.refuseOrphans(ctx); err != nil {
			return s, err
		}
	}
	s.useNames(h.Names)
	if err := s.sealNames(); err != nil {
		return s, err
	}
	s.device = newDevice(slogAdapter{c.cfg.log})
	s.device.Container = s
	if h.State == statePaired {
		s.gen = h.Gen
	}
	if err := s.loadTables(ctx); err != nil || s.gen == "" {
		return s, err
	}
	v, ok := s.im.get(tDevice, deviceID)
	if !ok {
		return s, badDevice("record is missing")
	}
	saved, err := decodeDevice(v)
	if err == nil {
		err = saved.fill(s.device)
	}
	if err == nil {
		s.install(s.device)
	}
	return s, err
}

// refuseOrphans looks for rows of a device where no record says whose they are.
// An account that is new has none; a record that is gone, by a hand in a console
// or half a restore, is no reason to show a new code. The rows of an unfinished
// import have a record of their own.
func (c *Container) refuseOrphans(ctx context.Context) error {
	m, err := c.readManifest(ctx)
	if err != nil {
		return err
	}
	known := func(k Key) bool {
		return strings.HasPrefix(k.ID, globalGen+"/") || m.Gen != "" && strings.HasPrefix(k.ID, m.Gen+"/")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var looks [][]Range
	for _, kind := range deviceKinds() {
		looks = append(looks, []Range{{Kind: kind}})
	}
	if _, ok := c.kv.(RangeScanner); ok {
		looks = [][]Range{slices.Concat(looks...)}
	}
	found := make(chan error, len(looks))
	for _, ranges := range looks {
		go func() {
			var answer result[Key]
			err := c.cfg.load(ctx, "look for a device", func(ctx context.Context) error {
				for e, err := range scanRanges(ctx, c.kv, ranges) {
					if err != nil {
						return err
					}
					if !known(e.Key) {
						return answer.of(e.Key, nil)
					}
				}
				return nil
			})
			if k := answer.get(); err == nil && k != (Key{}) {
				err = fmt.Errorf("%w: the record that names the account's device is missing, but there are rows of a device (%s): "+
					"restore that record from a backup, or clear all of the account to pair again", ErrCorrupt, k.Kind)
			}
			found <- err
		}()
	}
	var worst error
	for range looks {
		if err := <-found; err != nil && (worst == nil || errors.Is(err, ErrCorrupt)) {
			worst = err
			cancel()
		}
	}
	return worst
}

func (s *deviceStore) loadTables(ctx context.Context) error {
	rows, parts, err := s.readTables(ctx)
	if err != nil {
		return err
	}
	var bad []loadedRow
	s.im.expect(rows)
	for _, r := range rows {
		if r.err == nil {
			r.err = s.im.load(r.row, r.data)
		}
		if r.err == nil {
			continue
		}
		if r.row.table == tDevice || !errors.Is(r.err, ErrCorrupt) {
			return fmt.Errorf("authstore: load the device: %w", r.err)
		}
		bad = append(bad, r)
	}
	for name, bucket := range s.im.packed[tSeen] {
		if len(bucket) < seenChunk {
			s.events.goOn(name)
		}
	}
	s.loadSizes()
	s.events.begin(s.im)
	s.quarantine(nil, bad)
	s.dropOrphans(parts)
	return nil
}

// slogAdapter is the logger of a Device.
type slogAdapter struct{ l *slog.Logger }

func (a slogAdapter) Debugf(msg string, args ...any) {
	a.l.Debug("whatsmeow store", "text", fmt.Sprintf(msg, args...))
}
func (a slogAdapter) Infof(msg string, args ...any) {
	a.l.Debug("whatsmeow store", "text", fmt.Sprintf(msg, args...))
}
func (a slogAdapter) Warnf(msg string, args ...any) {
	a.l.Warn("whatsmeow store", "text", fmt.Sprintf(msg, args...))
}
func (a slogAdapter) Errorf(msg string, args ...any) {
	a.l.Error("whatsmeow store", "text", fmt.Sprintf(msg, args...))
}
func (a slogAdapter) Sub(string) waLog.Logger { return a }
