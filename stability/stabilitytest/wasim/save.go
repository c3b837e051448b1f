package wasim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
)

// saveFormat is the version of what Save writes.
const saveFormat = 1

type savedService struct {
	Format   int
	Static   [32]byte
	NextID   uint64
	Accounts []savedAccount
	Groups   []savedGroup
}

type savedAccount struct {
	Phone, LID, PushName string
	Key                  [32]byte
	LastID               uint16
	Ghost                bool
	Devices              []savedDevice
}

type savedDevice struct {
	ID              uint16
	Noise, Identity [32]byte
	RegistrationID  uint32
	SignedPreKey    preKey
	PreKeys         []preKey
	Used            map[uint32][32]byte
	Pending         []savedStanza
	Acks            []Ack
	LastLogin       time.Time
	Ghost, Contact  bool
	Stats           DeviceStats
}

type savedStanza struct {
	Node  []byte
	Sends int
	Since time.Time
}

type savedGroup struct {
	User, Subject, Owner string
	Created              time.Time
	Members              []string
	LID                  bool
}

// Save writes the service's accounts: devices, keys, prekeys, groups, and what
// was not acknowledged; Load makes a service of it that paired clients log in
// to. Connections, faults, contacts' clients and what phones wrote are not in
// it: NewContact on a saved number pairs the contact anew, in place of its old
// device. Save may be called at any time, after Close too. The keys in it open
// nothing but the simulation.
func (s *Service) Save(w io.Writer) error {
	s.mu.Lock()
	out := savedService{Format: saveFormat, Static: *s.static.Priv, NextID: s.nextID}
	var err error
	for _, a := range s.accounts {
		sa := savedAccount{Phone: a.phone, LID: a.lidUser, PushName: a.pushName, Key: *a.key.Priv, LastID: a.lastID, Ghost: a.ghost}
		for _, id := range a.ids() {
			var d savedDevice
			if d, err = a.devices[id].saved(); err != nil {
				break
			}
			sa.Devices = append(sa.Devices, d)
		}
		out.Accounts = append(out.Accounts, sa)
	}
	for _, g := range s.groups {
		sg := savedGroup{User: g.user, Subject: g.subject, Owner: g.owner.phone, Created: g.created, LID: g.lid}
		for _, m := range g.members {
			sg.Members = append(sg.Members, m.phone)
		}
		out.Groups = append(out.Groups, sg)
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("wasim: saving: %w", err)
	}
	slices.SortFunc(out.Accounts, func(a, b savedAccount) int { return strings.Compare(a.LID, b.LID) })
	slices.SortFunc(out.Groups, func(a, b savedGroup) int { return strings.Compare(a.User, b.User) })
	if err = json.NewEncoder(w).Encode(out); err != nil {
		return fmt.Errorf("wasim: saving: %w", err)
	}
	return nil
}

func (d *Device) saved() (savedDevice, error) {
	out := savedDevice{
		ID: d.id, Noise: d.noise, Identity: d.identity, RegistrationID: d.regID, SignedPreKey: d.skey,
		PreKeys: slices.Clone(d.prekeys), Used: map[uint32][32]byte{}, Acks: slices.Clone(d.acks),
		LastLogin: d.lastLogin, Ghost: d.ghost, Contact: d.contact, Stats: d.stats.clone(),
	}
	for id, k := range d.used {
		out.Used[id] = k
	}
	for _, p := range d.pending {
		b, err := waBinary.Marshal(p.Node)
		if err != nil {
			return out, err
		}
		out.Pending = append(out.Pending, savedStanza{Node: b, Sends: p.Sends, Since: p.Since})
	}
	return out, nil
}

// Load makes a service from what Save wrote.
func Load(r io.Reader, opts ...Option) (*Service, error) {
	var in savedService
	if err := json.NewDecoder(r).Decode(&in); err != nil {
		return nil, fmt.Errorf("wasim: loading: %w", err)
	}
	if in.Format != saveFormat {
		return nil, fmt.Errorf("wasim: loading: format %d is not known here, only %d is", in.Format, saveFormat)
	}
	s := New(append(opts, func(o *options) { o.static = keys.NewKeyPairFromPrivateKey(in.Static) })...)
	s.mu.Lock()
	err := s.restore(in)
	s.mu.Unlock()
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("wasim: loading: %w", err)
	}
	return s, nil
}

func (s *Service) restore(in savedService) error {
	s.nextID = in.NextID
	for _, sa := range in.Accounts {
		a := &Account{
			s: s, phone: sa.Phone, lidUser: sa.LID, pushName: sa.PushName, key: keys.NewKeyPairFromPrivateKey(sa.Key),
			lastID: sa.LastID, ghost: sa.Ghost, devices: map[uint16]*Device{}, asked: map[*Device]bool{},
		}
		for _, sd := range sa.Devices {
			d := &Device{
				s: s, acct: a, id: sd.ID, noise: sd.Noise, identity: sd.Identity, regID: sd.RegistrationID,
				skey: sd.SignedPreKey, prekeys: sd.PreKeys, used: sd.Used, acks: sd.Acks, lastLogin: sd.LastLogin,
				ghost: sd.Ghost, contact: sd.Contact, stats: sd.Stats,
			}
			for _, p := range sd.Pending {
				plain, err := waBinary.Unpack(p.Node)
				if err != nil {
					return err
				}
				n, err := waBinary.Unmarshal(plain)
				if err != nil {
					return err
				}
				d.pending = append(d.pending, &pending{Node: *n, Sends: p.Sends, Since: p.Since})
			}
			a.devices[sd.ID] = d
		}
		s.accounts[a.phone], s.byLID[a.lidUser] = a, a
	}
	for _, sg := range in.Groups {
		g := &Group{s: s, user: sg.User, subject: sg.Subject, created: sg.Created, lid: sg.LID}
		g.owner = s.accounts[sg.Owner]
		for _, m := range sg.Members {
			g.members = append(g.members, s.accounts[m])
		}
		if g.owner == nil || slices.Contains(g.members, nil) {
			return fmt.Errorf("group %s has a member without an account", sg.User)
		}
		s.groups[g.user] = g
	}
	return nil
}

// SaveFile saves to a file, which is replaced at once or not at all.
func (s *Service) SaveFile(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("wasim: saving: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	err = s.Save(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("wasim: saving to %s: %w", path, err)
	}
	return nil
}

// Open loads the service from a file, or makes a new one if there is none;
// loaded says which.
func Open(path string, opts ...Option) (s *Service, loaded bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return New(opts...), false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("wasim: %w", err)
	}
	defer func() { _ = f.Close() }()
	s, err = Load(f, opts...)
	return s, err == nil, err
}

// Groups lists the groups, oldest first.
func (s *Service) Groups() []*Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Group
	for _, g := range s.groups {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *Group) int { return strings.Compare(a.user, b.user) })
	return out
}

// AccountOf finds an account by its phone number, nil if there is none.
func (s *Service) AccountOf(phone string) *Account {
	return s.Account(types.NewJID(phone, types.DefaultUserServer))
}
