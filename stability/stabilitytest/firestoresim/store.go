package firestoresim

import (
	"slices"
	"strings"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// document is one stored version; it is never changed.
type document struct {
	path    string
	fields  fields
	created time.Time
	updated time.Time
}

func (d *document) proto(db string, mask *mask) *pb.Document {
	return &pb.Document{
		Name:       db + "/documents/" + d.path,
		Fields:     mask.apply(d.fields),
		CreateTime: timestamppb.New(d.created),
		UpdateTime: timestamppb.New(d.updated),
	}
}

// database is guarded by Server.mu.
type database struct {
	name string
	// colls are the collections that have documents, by path.
	colls map[string]map[string]*document
}

func (s *Server) db(name string) *database {
	d := s.dbs[name]
	if d == nil {
		d = &database{name: name, colls: map[string]map[string]*document{}}
		s.dbs[name] = d
	}
	return d
}

func (db *database) get(path string) *document { return db.colls[collectionOf(path)][path] }

func (db *database) put(path string, d *document) {
	coll := collectionOf(path)
	docs := db.colls[coll]
	if d == nil {
		delete(docs, path)
		if len(docs) == 0 {
			delete(db.colls, coll)
		}
		return
	}
	if docs == nil {
		docs = map[string]*document{}
		db.colls[coll] = docs
	}
	docs[path] = d
}

// snapshot is a copy that later writes do not change.
func (db *database) snapshot() *database {
	c := &database{name: db.name, colls: make(map[string]map[string]*document, len(db.colls))}
	for coll, docs := range db.colls {
		m := make(map[string]*document, len(docs))
		for k, d := range docs {
			m[k] = d
		}
		c.colls[coll] = m
	}
	return c
}

// mask selects fields; nil selects all.
type mask struct{ paths [][]string }

func parseMask(m *pb.DocumentMask) (*mask, error) {
	if m == nil {
		return nil, nil
	}
	out := &mask{}
	for _, p := range m.GetFieldPaths() {
		path, err := fieldPath(p)
		if err != nil {
			return nil, err
		}
		out.paths = append(out.paths, path)
	}
	return out, nil
}

func (m *mask) apply(fs fields) fields {
	if m == nil {
		return fs
	}
	var out fields
	for _, p := range m.paths {
		if v, ok := lookup(fs, p); ok {
			out = withField(out, p, v)
		}
	}
	return out
}

func sortDocuments(docs []*document) {
	slices.SortFunc(docs, func(a, b *document) int { return comparePaths(a.path, b.path) })
}

// Document is one stored document, for tests that look behind the API.
type Document struct {
	Path       string // collection/id/…
	Fields     map[string]any
	CreateTime time.Time
	UpdateTime time.Time
}

const defaultDatabase = "(default)"

func databaseName(project string, database []string) string {
	id := defaultDatabase
	if len(database) > 0 && database[0] != "" {
		id = database[0]
	}
	return "projects/" + project + "/databases/" + id
}

// Get looks at a document of a project's default database, or of the one
// named, without an RPC. Values are nil, bool, int64, float64, string, []byte,
// time.Time, []any, map[string]any, the path of a reference as a string, and
// *latlng.LatLng.
func (s *Server) Get(project, path string, database ...string) (Document, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !strings.Contains(path, "/") {
		return Document{}, false
	}
	d := s.db(databaseName(project, database)).get(path)
	if d == nil {
		return Document{}, false
	}
	return d.look(), true
}

// Snapshot looks at all documents of a database, ordered by path.
func (s *Server) Snapshot(project string, database ...string) []Document {
	s.mu.Lock()
	var docs []*document
	for _, coll := range s.db(databaseName(project, database)).colls {
		for _, d := range coll {
			docs = append(docs, d)
		}
	}
	s.mu.Unlock()
	sortDocuments(docs)
	out := make([]Document, len(docs))
	for i, d := range docs {
		out[i] = d.look()
	}
	return out
}

// Reset deletes all documents of a database at once. Listeners are told.
func (s *Server) Reset(project string, database ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	db := s.db(databaseName(project, database))
	db.colls = map[string]map[string]*document{}
	s.commitTime()
	for l := range s.streams {
		l.touchAll(db)
	}
}

func (d *document) look() Document {
	return Document{Path: d.path, Fields: lookFields(d.fields), CreateTime: d.created, UpdateTime: d.updated}
}

func lookFields(fs fields) map[string]any {
	out := make(map[string]any, len(fs))
	for k, v := range fs {
		out[k] = lookValue(v)
	}
	return out
}

func lookValue(v *pb.Value) any {
	switch t := v.GetValueType().(type) {
	case *pb.Value_BooleanValue:
		return t.BooleanValue
	case *pb.Value_IntegerValue:
		return t.IntegerValue
	case *pb.Value_DoubleValue:
		return t.DoubleValue
	case *pb.Value_TimestampValue:
		return t.TimestampValue.AsTime()
	case *pb.Value_StringValue:
		return t.StringValue
	case *pb.Value_BytesValue:
		return slices.Clone(t.BytesValue)
	case *pb.Value_ReferenceValue:
		return t.ReferenceValue
	case *pb.Value_GeoPointValue:
		return t.GeoPointValue
	case *pb.Value_ArrayValue:
		out := []any{}
		for _, e := range t.ArrayValue.GetValues() {
			out = append(out, lookValue(e))
		}
		return out
	case *pb.Value_MapValue:
		return lookFields(t.MapValue.GetFields())
	}
	return nil
}
