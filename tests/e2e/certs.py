"""Certificates as people make them, with openssl(1): a CA, and leaves with the names that say a role."""
import datetime
import os
import subprocess


def openssl(*args, **more):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True, **more)


class Party:
    """A certificate and its key, as files."""

    def __init__(self, folder, name):
        self.cert, self.key, self.name = folder / f"{name}.crt", folder / f"{name}.key", name

    def options(self):
        return ["--tls-cert", self.cert, "--tls-key", self.key]

    def pem(self):
        return self.cert.read_bytes(), self.key.read_bytes()


class Authority(Party):
    def __init__(self, folder, name="ca"):
        super().__init__(folder, name)
        self.folder, self.made = folder, 0
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                "-keyout", self.key, "-out", self.cert)

    def sign(self, name, names, days=(-1, 2), rsa=0):
        """names: of subjectAltName. days: from when, until when, from now."""
        party = Party(self.folder, name)
        kind = ["-newkey", f"rsa:{rsa}"] if rsa else ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        request, extension = party.cert.with_suffix(".csr"), party.cert.with_suffix(".ext")
        openssl("req", *kind, "-nodes", "-subj", f"/CN={name}", "-keyout", party.key, "-out", request)
        extension.write_text(f"[v3]\nsubjectAltName={names}\n")
        # x509 of OpenSSL 3.0 knows no begin that is not now; ca does, and wants a folder of its own.
        work = self.folder / f"work-{self.name}"
        if not work.exists():
            work.mkdir()
            (work / "index").write_text("")
        self.made += 1
        (work / "serial").write_text(f"{self.made:04x}\n")
        (work / "conf").write_text(f"[ca]\ndefault_ca=it\n[it]\ndatabase={work}/index\nserial={work}/serial\nnew_certs_dir={work}\n"
                                   "default_md=sha256\npolicy=any\nunique_subject=no\n[any]\ncommonName=supplied\n")
        now = datetime.datetime.now(datetime.timezone.utc)
        begin, end = ((now + datetime.timedelta(days=d)).strftime("%Y%m%d%H%M%SZ") for d in days)
        openssl("ca", "-batch", "-config", work / "conf", "-cert", self.cert, "-keyfile", self.key, "-in", request, "-out", party.cert,
                "-startdate", begin, "-enddate", end, "-extfile", extension, "-extensions", "v3", "-notext")
        return party

    def of_role(self, role, who="acme", name=None, **more):
        return self.sign(name or f"{who}-{role}", f"URI:spiffe://test/{who}/role/{role}", **more)


def replace(target, party):
    """As cert-manager and people do: each file whole, one after the other."""
    for to, source in ((target.cert, party.cert), (target.key, party.key)):
        fresh = to.with_suffix(".new")
        fresh.write_bytes(source.read_bytes())
        os.replace(fresh, to)
