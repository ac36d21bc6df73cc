from timm_gam.export.folder import export_model as export_model
