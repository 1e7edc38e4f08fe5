// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"io"
)

// WritePcap writes frames in libpcap's file format (magic 0xa1b2c3d4, link
// type Ethernet). The first error of w ends it.
func WritePcap(w io.Writer, captures []Capture) error {
	const ethernet, snapshot = 1, 65535
	header := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	header = binary.LittleEndian.AppendUint16(header, 2)
	header = binary.LittleEndian.AppendUint16(header, 4)
	header = append(header, make([]byte, 8)...)
	header = binary.LittleEndian.AppendUint32(header, snapshot)
	header = binary.LittleEndian.AppendUint32(header, ethernet)
	if _, err := w.Write(header); err != nil {
		return err
	}
	for _, c := range captures {
		record := binary.LittleEndian.AppendUint32(nil, uint32(c.Time.Unix()))
		record = binary.LittleEndian.AppendUint32(record, uint32(c.Time.Nanosecond()/1000))
		record = binary.LittleEndian.AppendUint32(record, uint32(len(c.Raw)))
		record = binary.LittleEndian.AppendUint32(record, uint32(len(c.Raw)))
		if _, err := w.Write(append(record, c.Raw...)); err != nil {
			return err
		}
	}
	return nil
}
